test -f app.sh
