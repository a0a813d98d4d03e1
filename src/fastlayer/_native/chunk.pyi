from typing import Any

KERNELS: tuple[str, ...]

class Chunker:
    kernel: str
    def __init__(self, min_size: int, avg_size: int, max_size: int, kernel: str | None = None) -> None: ...
    def feed(self, buffer: Any, final: bool) -> list[int]: ...
