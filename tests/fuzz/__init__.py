"""Files that are damaged, wrong or hostile, given to everything that reads a user's file.

`python -m tests.fuzz --seconds 600` names each input that ends in anything but a result or one line for the user, and
keeps it. It is a process of its own: a crash of a library in C is a finding too, and what it watches with (audit hooks)
cannot be taken out again.
"""
