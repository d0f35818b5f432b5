"""``tidegate loadgen``: traffic of several users at stated times, and what became of it.

An open loop: requests go when their time has come, whether or not earlier ones were answered, and
each latency counts from the time at which the request was to go. A server that stands still for a
second thus shows in every request of that second, which a closed loop would not have sent
(coordinated omission).
"""
