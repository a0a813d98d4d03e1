#!/bin/sh
set -e
echo "as $(id -un): $*"
