import sys

from shout import shout

print(shout("hello from"), sys.prefix)
