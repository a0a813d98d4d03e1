"""Chain ids: the identity of a stack of layers (image-spec config.md, "Layer ChainID")."""

from __future__ import annotations

from collections.abc import Iterable

from fastlayer.oci.digest import Digest, digest_of


def chain_ids(diff_ids: Iterable[str]) -> list[Digest]:
    """The chain id of every prefix of the stack, bottom layer first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        checked = Digest(diff_id)
        if chain:
            checked = digest_of(f"{chain[-1]} {checked}".encode())
        chain.append(checked)
    return chain


def chain_id(diff_ids: Iterable[str]) -> Digest:
    """The chain id of the whole stack. Raises ``ValueError`` for an empty one, which has none."""
    chain = chain_ids(diff_ids)
    if not chain:
        raise ValueError("a stack without layers has no chain id")
    return chain[-1]
