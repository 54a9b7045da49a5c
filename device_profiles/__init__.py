"""Floor 0: the words everything else is said in.

Quantities and units, the reading types, ``Finding`` and ``Coverage``, the native MQTT
contract and the recording format. Pure: no clock, no socket, no database.
"""
