"""Says that it is ready and waits for its stdin to end. Runs on every Python, 2.7 included."""
import os
import sys

sys.stdout.write('{"version": "%s"}\n' % sys.version.split()[0]); sys.stdout.flush(); os.read(0, 1)
