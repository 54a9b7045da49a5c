"""HJ 212, the wire format of Chinese dust and noise stations: a sans-I/O codec.

- `crc`: the standard's checksum, and the wrong ones that devices use instead.
- `segment`: the data segment: header and groups of CP.
- `frames`: one frame, judged.
- `reader`: bytes in, frames and faults out (`Reader` for a stream, `read_frames` for a payload).
- `joining`: parts of a split packet put together.
- `factors`: which code means which quantity, by dialect; units.
- `fields`: the fields of CP made into one reading.
- `readings`: frames to the readings of the vocabulary (`Hj212Decoder`).
- `plausibility`: does a unit look wrong by 10³?
- `writer`: data segments and frames written.
- `commands`: what is asked of a device, what it is answered, what it replies.
- `asking`: one command from its sending to what became of it.
- `topics`: where strangers' frames are filed.

Nothing here knows a clock, a socket or a device: times and passwords are handed in. Sources:
HJ 212-2017 and HJ/T 212-2005; of HJ 212-2025 only what is publicly quoted is known (same frame
and checksum, heartbeat 9015, RF, payload encryption), its text was not readable.
"""
