#!/bin/sh
sed -e "s/\${LISTEN}/$LISTEN/; s/\${NAME}/$NAME/" /etc/server/templates/default.conf.template >/tmp/default.conf
