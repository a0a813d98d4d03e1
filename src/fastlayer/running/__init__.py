"""Running a process in a root file system: by an OCI runtime, by ourselves, or in a plain chroot."""
