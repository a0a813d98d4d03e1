"""What is looked up in registries: tags in pages, repositories, referrers, mirrors first; and deleting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer.cli.main import run as command
from fastlayer.errors import ManifestError, RegistryError
from fastlayer.oci import mediatypes
from fastlayer.oci.digest import digest_of
from fastlayer.oci.platform import parse_platform
from fastlayer.oci.reference import parse_reference
from fastlayer.registry import looking
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.looking import delete_image, find_repositories, find_tags
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.transfer.documents import look_at
from tests.registry_server import RegistryServer, error

Run = Callable[..., tuple[int, str, str]]
VALUE = {"schemaVersion": 2, "mediaType": mediatypes.MANIFEST, "layers": []}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as made:
        for number in range(25):
            made.add_manifest("team/app", f"v{number:02}", {**VALUE, "annotations": {"n": str(number)}})
        made.add_manifest("other", "latest", VALUE)
        yield made


@pytest.fixture
def wishes(tmp_path: Path) -> Wishes:
    """On a machine where nothing is set up."""
    timeouts = Timeouts(connect=2.0, read=2.0, finish=2.0)
    return Wishes(
        environ={"HOME": str(tmp_path)}, etc=tmp_path, timeouts=timeouts, policy=Policy(tries=1), verify=False
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("HOME", str(tmp_path))

    def go(*words: str) -> tuple[int, str, str]:
        code = command([*words, "--retry-times", "0"])
        return code, *capfd.readouterr()

    return go


def test_tags_in_pages(server: RegistryServer, run: Run) -> None:
    server.page = 10
    code, out, err = run("search", "tags", f"{server.host}/team/app")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].split() == ["NAME", "TAG"]
    assert [line.split() for line in lines[1:]] == [[f"{server.host}/team/app", f"v{n:02}"] for n in range(25)]
    assert len(server.calls("tags/list")) == 3
    _, quiet, _ = run("search", "tags", "-q", "--limit", "11", f"docker://{server.host}/team/app")
    assert quiet.split() == [f"v{n:02}" for n in range(11)] and len(server.calls("tags/list")) == 5
    _, text, _ = run("search", "tags", "--format", "json", "--limit", "1", f"{server.host}/team/app")
    assert json.loads(text) == {"schema": 1, "Name": f"{server.host}/team/app", "Tag": "v00"}
    assert run("search", "tags", "--format", "{{.Tag}}!", "--limit", "1", f"{server.host}/team/app")[1] == "v00!\n"


def test_tags_that_steer_a_terminal_are_shown(server: RegistryServer, run: Run) -> None:
    server.manifests["odd", "\x1b[2J"] = (b"{}", mediatypes.MANIFEST)
    for words in (("-q",), (), ("--format", "{{.Tag}}")):
        _, out, _ = run("search", "tags", *words, f"{server.host}/odd")
        assert "\x1b" not in out and "\\x1b[2J" in out


def test_what_is_no_repository(server: RegistryServer, run: Run) -> None:
    for words, code, reason in (
        (("tags", f"{server.host}/team/app:v1"), 2, "leave out tag and digest"),
        (("tags", f"{server.host}/none"), 1, "NAME_UNKNOWN"),
        (("tags", "A"), 2, "capitals"),
        (("repositories", f"{server.host}/team"), 2, "give HOST[:PORT]"),
        (("referrers", f"{server.host}/none:1"), 1, "MANIFEST_UNKNOWN"),
    ):
        found, out, err = run("search", *words)
        assert found == code and out == "" and reason in err and err.count("\n") == 1, err


def test_lists_without_an_end(server: RegistryServer, wishes: Wishes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "MAX_NAMES", 20)
    with pytest.raises(RegistryError, match="lists more than 20 names: give --limit"):
        find_tags(f"{server.host}/team/app", wishes)
    assert len(find_tags(f"{server.host}/team/app", wishes, limit=21)) == 21


def test_repositories(server: RegistryServer, run: Run, wishes: Wishes) -> None:
    _, out, _ = run("search", "repositories", "-q", server.host)
    assert out.split() == [f"{server.host}/other", f"{server.host}/team/app"]
    server.auth = "token"
    with pytest.raises(RegistryError, match="UNAUTHORIZED"):
        find_repositories(server.host, wishes)


@pytest.mark.parametrize("api", [True, False])
def test_referrers(server: RegistryServer, run: Run, api: bool) -> None:
    server.referrers_api = api
    subject = server.add_manifest("team/app", "v1", VALUE)
    item = {"mediaType": mediatypes.MANIFEST, "digest": str(subject), "size": 10}
    signature = server.add_manifest("team/app", "sig", {**VALUE, "artifactType": "sig/1", "subject": item})
    if not api:
        listed = {"mediaType": mediatypes.MANIFEST, "digest": str(signature), "size": 9, "artifactType": "sig/1"}
        tag = str(subject).replace(":", "-")
        server.add_manifest("team/app", tag, {"schemaVersion": 2, "manifests": [listed]}, mediatypes.INDEX)
    for name in (f"{server.host}/team/app:v1", f"{server.host}/team/app@{subject}"):
        _, out, _ = run("search", "referrers", name)
        assert [line.split()[:2] for line in out.splitlines()] == [["DIGEST", "TYPE"], [str(signature), "sig/1"]]
        assert run("search", "referrers", "-q", "--artifact-type", "sbom", name)[1] == ""


def test_lists_are_of_the_registry_itself(server: RegistryServer, wishes: Wishes, tmp_path: Path) -> None:
    """A mirror has what it was asked for; manifests are looked for there first."""
    with RegistryServer() as mirror:
        text = f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n'
        for host in (mirror.host, "127.0.0.1:1"):
            text += f'[[registry.mirror]]\nlocation = "{host}"\ninsecure = true\n'
        (tmp_path / "containers").mkdir()
        (tmp_path / "containers/registries.conf").write_text(text)
        name = f"{server.host}/team/app:v01"

        def found() -> str:
            annotations = look_at(name, lambda documents: json.loads(documents.data)["annotations"], wishes)
            return str(annotations["n"])

        assert found() == "1"
        mirror.add_manifest("team/app", "v01", {**VALUE, "annotations": {"n": "the mirror's"}})
        assert found() == "the mirror's"
        mirror.add_manifest("team/app", "only", VALUE)
        assert len(find_tags(f"{server.host}/team/app", wishes)) == 25


def test_deleting(server: RegistryServer, run: Run) -> None:
    digest = str(find_digest(server, "team/app", "v03"))
    code, out, _ = run(
        "rmi", "--remote", f"{server.host}/team/app:v03", f"docker://{server.host}/other@sha256:{'0' * 64}"
    )
    assert code == 1 and out == f"Deleted: {server.host}/team/app@{digest}\n"
    assert ("team/app", digest) not in server.manifests
    assert server.calls("DELETE")[0] == f"DELETE /v2/team/app/manifests/{digest}"


def find_digest(server: RegistryServer, name: str, tag: str) -> str:
    return str(digest_of(server.manifests[name, tag][0]))


@pytest.mark.parametrize(("status", "code"), [(405, "UNSUPPORTED"), (400, "UNSUPPORTED"), (405, "")])
def test_where_nothing_may_be_deleted(server: RegistryServer, run: Run, wishes: Wishes, status: int, code: str) -> None:
    server.fail("DELETE", status=status, body=error(code, "The operation is unsupported.") if code else b"")
    done, out, err = run("rmi", "--remote", f"{server.host}/other:latest")
    assert done == 1 and out == "" and err.count("\n") == 1
    assert f"{server.host} lets nobody delete: ask whoever runs it" in err and code in err
    with pytest.raises(RegistryError) as caught:
        delete_image(parse_reference(f"{server.host}/other:latest"), wishes)
    assert caught.value.status == status


def test_deleting_needs_a_tag_or_digest(server: RegistryServer, run: Run) -> None:
    for words, code, reason in (
        (("--remote", f"{server.host}/other"), 2, "says neither tag nor digest"),
        (("--remote", "-f", f"{server.host}/other:1"), 2, "--force and --remote exclude each other"),
        (("--creds", "a:b", "x"), 2, "--creds is for registries"),
        (("--remote", f"{server.host}/none:1"), 1, "MANIFEST_UNKNOWN"),
    ):
        found, out, err = run("rmi", *words)
        assert (found, out) == (code, "") and reason in err and err.count("\n") == 1, err
    assert not server.calls("DELETE")


def test_lists_without_end(server: RegistryServer, wishes: Wishes) -> None:
    """Few names, but of a megabyte each: they would be all in memory."""
    page = json.dumps({"name": "team/app", "tags": [f"{number}" * (1 << 20) for number in range(7)]}).encode()
    for number in range(10):
        link = f'</v2/team/app/tags/list?last={number}>; rel="next"'
        server.fail("GET .*/tags/list", 1, status=200, body=page, headers={"Link": link})
    with pytest.raises(RegistryError, match="a list of more than 32 MiB"):
        find_tags(f"{server.host}/team/app", wishes)
    assert len(server.calls("GET .*/tags/list")) == 5


def test_indexes_within_each_other(server: RegistryServer, wishes: Wishes) -> None:
    config = {"mediaType": mediatypes.CONFIG, "digest": "sha256:" + "0" * 64, "size": 2}
    server.add_manifest("team/app", "image", {**VALUE, "config": config, "annotations": {"n": "1"}})
    for number in range(12):
        inner = f"n{number - 1}" if number else "image"
        data, _ = server.manifests["team/app", inner]
        child = {"mediaType": mediatypes.INDEX if number else mediatypes.MANIFEST, "digest": digest_of(data)}
        entry = {**child, "size": len(data), "platform": {"os": "linux", "architecture": "amd64"}}
        value = {"schemaVersion": 2, "mediaType": mediatypes.INDEX, "manifests": [entry]}
        server.add_manifest("team/app", f"n{number}", value, mediatypes.INDEX)
    amd64 = parse_platform("linux/amd64")
    name = f"docker://{server.host}/team/app:n"
    assert look_at(name + "8", lambda found: found.manifest(amd64), wishes).annotations == {"n": "1"}
    with pytest.raises(ManifestError, match="more than 8 indexes within each other"):
        look_at(name + "11", lambda found: found.manifest(amd64), wishes)


def test_from_python(server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As things are set up here: a registry on this machine may be plain HTTP."""
    monkeypatch.setenv("HOME", str(tmp_path))
    name = f"{server.host}/team/app:v03"
    assert fastlayer.find_repositories(server.host) == ["other", "team/app"]
    assert fastlayer.find_tags(f"{server.host}/team/app")[:2] == ["v00", "v01"]
    data = fastlayer.read_manifest(name)
    assert data == fastlayer.read_manifest(f"docker://{name}") == server.manifests["team/app", "v03"][0]
    assert fastlayer.find_referrers(name) == (digest_of(data), [])
    assert fastlayer.delete_image(name) == digest_of(data)
    assert ("team/app", digest_of(data)) not in server.manifests
    with pytest.raises(fastlayer.UsageError, match="neither tag nor digest"):
        fastlayer.delete_image(f"{server.host}/other")
