echo app $VERSION $*
