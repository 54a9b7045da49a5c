"""Detectors: readings in, findings and coverage out.

A detector is handed the readings of one subject (a device, a pair of cranes, a camera) in the
order they were observed and says what was wrong, and from when to when it could judge at all.
It is a pure state machine: no clock, no socket, no database, no model inside; time is handed in.

- `detectors.detector`: the shape all of them share, and how to resume one after a restart
- `detectors.rules`: the settings of the rules, with their sources
- `detectors.dust`: mean PM10 over a sliding window
- `detectors.geometry`, `detectors.cranes`: the distance between two cranes' bodies
- `detectors.confirming`, `detectors.tracks`: what rules on a camera's people share: tracks, and
  confirmation over several looks
- `detectors.helmets`, `detectors.vests`, `detectors.presence`: bare heads, missing vests, people
  where nobody may be
- `detectors.cameras`: cameras whose pictures let nobody judge
- `detectors.reported`: what devices' own AI says, confirmed or contradicted
- `detectors.silence`, `detectors.clock`, `detectors.units`: the health of devices: who is offline,
  whose clock is off, who seems to send another unit than configured
- `detectors.vision`: the model that turns frames into `Detections`

What all detectors hold to: what is known may prove a violation; only complete knowledge proves
that there was none. Everything else is not evaluable, with the reason.

They raise nothing but `ValueError`, for a caller's mistake: a reading of another subject, or one
older than what was already settled.
"""
