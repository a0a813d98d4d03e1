"""Cache mounts as archives of chunks, so that machines that begin with nothing have them: ``cache export, import``."""
