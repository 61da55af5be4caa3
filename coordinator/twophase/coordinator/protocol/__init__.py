"""The protocol as pure machines: events in, effects out. No I/O, no clock, no await, no logging, no imports of ours."""
