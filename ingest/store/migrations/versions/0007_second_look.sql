-- What the second look said of a helmet stands in its box, as a seventh element where it was asked:
-- [label, score, x1, y1, x2, y2, probability of a helmet]. Boxes of six elements stay what they are;
-- those written before this migration as heads may be helmets it did not believe in.
ALTER TABLE detections ADD COLUMN second_look_sha256 bytea;  -- of its file; NULL: none was asked
