"""The console: a page in plain ES modules and CSS, without a build step and without anybody else's code.

It is a client of the public API like any other: whatever it can do, a program can do.
"""
