"""Build contexts: where COPY and ADD find files, and what those files are called in the cache."""
