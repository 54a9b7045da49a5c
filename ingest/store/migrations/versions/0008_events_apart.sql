-- The picture of an AI box's event is no frame of the camera's stream: it is looked at by itself,
-- waits longer, and no rule takes it for a look at the scene.
ALTER TABLE frame_queue ADD COLUMN event boolean NOT NULL DEFAULT false;
ALTER TABLE detections ADD COLUMN event boolean NOT NULL DEFAULT false;

-- How often it was taken: one that ends whoever looks at it must not do so for ever.
ALTER TABLE frame_queue ADD COLUMN attempts smallint NOT NULL DEFAULT 0;

-- What waits now. What was seen before stays as it was judged.
UPDATE frame_queue q SET event = true FROM reported_events e
WHERE e.device_id = q.device_id AND e.observed_at = q.observed_at AND e.frame_sha256 = q.sha256;
