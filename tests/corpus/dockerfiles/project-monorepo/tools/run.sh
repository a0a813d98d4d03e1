#!/bin/sh
for p; do cat /repo/packages/$p/index.js; done
