"""Indexes that people put together: of images of the store and of a registry; and what ``manifest inspect`` shows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer.cli.main import run as command
from fastlayer.errors import AlreadyExistsError, NotFoundError, UsageError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.image_index import parse_index
from fastlayer.oci.platform import Platform
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.store.collect import collect
from fastlayer.store.store import Store
from fastlayer.transfer import indexes
from fastlayer.transfer.indexes import SOURCE, Change, Which, index_named
from tests import images as made
from tests.registry_server import RegistryServer
from tests.stores import Layout, sound, vfs_store

ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with ``one:amd`` and ``one:arm``."""
    monkeypatch.setenv("FASTLAYER_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("FASTLAYER_DRIVER", "vfs")
    monkeypatch.setenv("HOME", str(tmp_path))
    layout = Layout(tmp_path / "layout")
    for platform in (AMD, ARM):
        layout.image(f"one:{platform.architecture[:3]}", [{"a": platform.architecture.encode()}], platform)
    with vfs_store(tmp_path / "store") as found:
        load(found, tmp_path / "layout")
        yield found


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """``app:s390x`` and ``app:ppc64le``, and ``app:both``, an index of these."""
    with RegistryServer() as found:
        entries = []
        for name in ("s390x", "ppc64le"):
            image = made.make_image(made.layer_tar({"a": name.encode()}), architecture=name)
            for data in (image.config, *image.layers):
                found.add_blob("app", data)
            found.manifests["app", name] = found.manifests["app", made.digest(image.manifest)] = (
                image.manifest,
                mediatypes.MANIFEST,
            )
            entries.append({**image.entry, "platform": {"os": "linux", "architecture": name}})
        found.add_manifest("app", "both", {"schemaVersion": 2, "manifests": entries}, mediatypes.INDEX)
        yield found


@pytest.fixture
def wishes(tmp_path: Path) -> Wishes:
    timeouts = Timeouts(connect=2.0, read=2.0, finish=2.0)
    return Wishes(
        environ={"HOME": str(tmp_path)}, etc=tmp_path, timeouts=timeouts, policy=Policy(tries=1), verify=False
    )


@pytest.fixture
def run(store: Store, capfd: pytest.CaptureFixture[str]) -> Run:
    def go(*words: str) -> tuple[int, str, str]:
        code = command(["manifest", *words])
        return code, *capfd.readouterr()

    return go


def architectures(store: Store, name: str) -> list[str]:
    return [entry.platform.architecture if entry.platform else "" for entry in index_named(store, name).manifests]


def digest(server: RegistryServer, tag: str) -> Digest:
    return digest_of(server.manifests["app", tag][0])


def test_of_the_store_and_of_a_registry(store: Store, server: RegistryServer, wishes: Wishes) -> None:
    remote = f"{server.host}/app:s390x"
    before = len(server.calls("blobs"))
    found = indexes.create_index(store, "all:1", ["one:amd", "one:arm", remote], wishes=wishes)
    index = index_named(store, "all:1")
    assert index.digest == found and index.media_type == mediatypes.INDEX
    assert architectures(store, "all:1") == ["amd64", "arm64", "s390x"]
    amd, _, other = index.manifests
    assert amd.digest == Images(store).find("one:amd").manifest and SOURCE not in amd.annotations
    assert other.digest == digest(server, "s390x") and not store.content.has(other.digest)
    assert other.annotations == {SOURCE: f"{remote}@{other.digest}"}
    assert len(server.calls("blobs")) == before + 1  # the configuration, which says the platform
    assert Images(store).find("all:1", ARM).manifest == index.manifests[1].digest
    sound(store)


def test_of_a_registry_alone(store: Store, server: RegistryServer, wishes: Wishes) -> None:
    """No image of it is in the store, which is as it should be."""
    indexes.create_index(store, "far:1", [f"{server.host}/app:s390x"], wishes=wishes)
    collect(store)
    sound(store)
    with pytest.raises(NotFoundError, match="an index of which no image is in the store"):
        Images(store).find("far:1")
    assert "far:1" not in {name for image in Images(store).all() for name in image.names}


def test_what_it_names_stays(store: Store) -> None:
    """Its images lose their own names, and are there as long as the index has them."""
    indexes.create_index(store, "all:1", ["one:amd", "one:arm"])
    for name in ("one:amd", "one:arm"):
        Images(store).untag(name)
    collect(store)
    assert Images(store).find("all:1", ARM).platform == ARM
    indexes.remove_from_index(store, "all:1", [Images(store).find("all:1", ARM).manifest])
    assert architectures(store, "all:1") == ["amd64"]
    blobs = collect(store).blobs
    assert len(blobs) >= 3 and index_named(store, "all:1").manifests  # the index as it was, and the image
    assert Images(store).nameless() == []
    sound(store)


def test_a_name_that_is_taken(store: Store, wishes: Wishes) -> None:
    with pytest.raises(AlreadyExistsError, match="an image has this name"):
        indexes.create_index(store, "one:amd", [], amend=True)
    indexes.create_index(store, "all", ["one:amd"], annotations={"a": "1", "b": "2"})
    with pytest.raises(AlreadyExistsError, match="--amend"):
        indexes.create_index(store, "all", ["one:arm"])
    indexes.create_index(store, "all", ["one:arm"], amend=True, annotations={"b": "3"})
    assert architectures(store, "all") == ["amd64", "arm64"]
    assert index_named(store, "all").annotations == {"a": "1", "b": "3"}
    for name in ("none", "one:amd"):
        with pytest.raises(NotFoundError, match="manifest create"):
            indexes.add_to_index(store, name, ["one:arm"])


def test_of_an_index_one_or_all(store: Store, server: RegistryServer, wishes: Wishes) -> None:
    both = f"{server.host}/app:both"
    with pytest.raises(NotFoundError, match="give --platform or --all"):
        indexes.create_index(store, "x", [both], wishes=wishes)
    platform = Platform("linux", "ppc64le")
    indexes.create_index(store, "x", [both], wishes=wishes, which=Which(platform=platform))
    assert architectures(store, "x") == ["ppc64le"]
    indexes.add_to_index(store, "x", [both], wishes=wishes, which=Which(all=True))
    assert architectures(store, "x") == ["ppc64le", "s390x"]
    assert {entry.annotations[SOURCE].partition("@")[0] for entry in index_named(store, "x").manifests} == {both}
    indexes.create_index(store, "y", ["x"], which=Which(all=True))
    assert index_named(store, "y").manifests == index_named(store, "x").manifests


def test_annotating(store: Store, server: RegistryServer, wishes: Wishes) -> None:
    remote = f"{server.host}/app:s390x"
    indexes.create_index(store, "all", ["one:arm", remote], wishes=wishes)
    indexes.annotate(store, "all", "one:arm", Change(variant="v8", os_features=("a", "b"), annotations={"k": "v"}))
    short = digest(server, "s390x").encoded[:10]
    for number, name in enumerate((short, "sha256:" + short, remote, f"docker://{remote}")):
        indexes.annotate(store, "all", name, Change(os_version=str(number)))
        arm, other = index_named(store, "all").manifests
        assert other.platform == Platform("linux", "s390x", os_version=str(number))
    assert arm.platform == Platform("linux", "arm64", "v8", "", ("a", "b")) and arm.annotations == {"k": "v"}
    indexes.annotate_index(store, "all", {"of": "all"})
    assert index_named(store, "all").annotations == {"of": "all"}
    with pytest.raises(UsageError, match="no name of one"):
        indexes.annotate(store, "all", short, Change(architecture="a/b"))
    for wrong in ("one:amd", "ffffffff", "none", "..", short[:4]):
        with pytest.raises(NotFoundError, match="not in all, which has"):
            indexes.annotate(store, "all", wrong, Change(variant="x"))


def test_several_at_the_same_time(store: Store, tmp_path: Path) -> None:
    """Nobody's addition is lost."""
    indexes.create_index(store, "all", ["one:amd"])
    start = threading.Barrier(8)

    def note(number: int) -> None:
        with vfs_store(tmp_path / "store") as own:
            start.wait(30)
            indexes.annotate_index(own, "all", {f"n{number}": "x"})

    threads = [threading.Thread(target=note, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(index_named(store, "all").annotations) == 8
    assert Images(store).nameless() == []


# ---- the verbs -----------------------------------------------------------------------------------------


def test_the_verbs(store: Store, server: RegistryServer, run: Run) -> None:
    remote = f"docker://{server.host}/app:s390x"
    code, out, err = run("create", "--annotation", "a=b", "all:1", "one:amd", remote)
    assert (code, err) == (0, "") and Digest(out.strip()) == index_named(store, "all:1").digest
    assert run("add", "--variant", "v8", "--os-features", "x,y", "all:1", "one:arm")[0] == 0
    assert run("annotate", "--os-version", "7", "all:1", remote)[0] == 0
    assert run("annotate", "--index", "--annotation", "c=d", "all:1")[0] == 0
    code, text, _ = run("inspect", "all:1")
    value = json.loads(text)
    assert code == 0 and value["annotations"] == {"a": "b", "c": "d"}
    platforms = [entry["platform"] for entry in value["manifests"]]
    assert platforms[1] == {"os": "linux", "architecture": "s390x", "os.version": "7"}
    assert platforms[2] == {"architecture": "arm64", "os": "linux", "os.features": ["x", "y"], "variant": "v8"}
    assert run("rm", "all:1", "one:amd", remote)[0] == 0
    assert architectures(store, "all:1") == ["arm64"]
    assert command(["rmi", "all:1"]) == 0
    assert run("rm", "all:1", "one:arm")[0] == 1


def test_what_a_wrong_line_says(run: Run) -> None:
    for words, code, reason in (
        (("create", "x", "oci:layout"), 2, "only images of the store and of registries"),
        (("create", "--retry-times", "0", "x", "127.0.0.1:1/y"), 1, "Connection refused"),
        (("create", "a/Y", "one:amd"), 2, "capitals"),
        (("create", "--all", "--platform", "linux/arm64", "x", "one:amd"), 2, "exclude each other"),
        (("annotate", "x"), 2, "say what is annotated"),
        (("annotate", "--index", "x", "y"), 2, "say what is annotated"),
        (("annotate", "--index", "--os", "linux", "x"), 2, "for no platform"),
        (("annotate", "--os", "linux", "x", "y"), 1, "no such index"),
        (("inspect", "-v", "--raw", "x"), 2, "leave out --raw"),
    ):
        found, out, err = run(*words)
        assert (found, out) == (code, "") and reason in err and err.count("\n") == 1, (words, err)


def test_inspecting_what_a_registry_has(server: RegistryServer, run: Run) -> None:
    name = f"{server.host}/app:both"
    data = server.manifests["app", "both"][0]
    assert run("inspect", "--raw", name)[1].encode() == data
    assert json.loads(run("inspect", name)[1]) == json.loads(data)
    manifest = server.manifests["app", "s390x"][0]
    assert run("inspect", "--raw", "--platform", "linux/s390x", name)[1].encode() == manifest
    config = json.loads(run("inspect", "--config", "--platform", "linux/s390x", name)[1])
    assert config["architecture"] == "s390x"
    verbose = json.loads(run("inspect", "-v", name)[1])
    assert [one["Descriptor"] for one in verbose] == json.loads(data)["manifests"]
    assert verbose[0]["OCIManifest"] == json.loads(manifest)
    assert verbose[0]["Ref"] == f"{server.host}/app@{digest(server, 's390x')}"
    alone = json.loads(run("inspect", "-v", f"{server.host}/app:s390x")[1])
    assert alone["Descriptor"] == Descriptor(mediatypes.MANIFEST, digest(server, "s390x"), len(manifest)).to_dict()
    code, out, err = run("inspect", "--platform", "linux/386", name)
    assert (code, out) == (1, "") and "it is there for linux/ppc64le, linux/s390x" in err
    assert run("inspect", f"{server.host}/none")[0] == 1


def test_a_name_of_the_store_goes_first_for_indexes_only(store: Store, server: RegistryServer, run: Run) -> None:
    remote = f"{server.host}/app:both"
    images = Images(store)
    images.tag("one:amd", remote)
    raw = run("inspect", "--raw", remote)[1].encode()
    assert raw == server.manifests["app", "both"][0]  # an image of the store is none of its indexes
    images.untag(remote)
    indexes.create_index(store, remote, ["one:amd"])
    assert run("inspect", "--raw", remote)[1].encode() == index_named(store, remote).raw
    assert run("inspect", "--raw", f"docker://{remote}")[1].encode() == server.manifests["app", "both"][0]


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_inspecting_layouts_and_archives(store: Store, run: Run, tmp_path: Path, form: str) -> None:
    at = tmp_path / form
    kind = "oci-dir" if form == "oci" else form
    assert command(["save", "--format", kind, "-o", str(at), "one:amd", "one:arm"]) == 0
    image = Images(store).find("one:arm", ARM)
    for inner in ("docker.io/library/one:arm", "@1"):
        code, out, err = run("inspect", "--config", f"{form}:{at}:{inner}")
        if form == "docker-archive" and not inner.startswith("@"):
            assert json.loads(out)["architecture"] == "arm64"
        assert (code, err) == (0, ""), err
    raw = run("inspect", "--raw", f"{form}:{at}:docker.io/library/one:arm")[1].encode()
    assert form == "docker-archive" or digest_of(raw) == image.manifest
    code, _, err = run("inspect", f"{form}:{at}")
    assert code == 2 and "has 2 images: say which one" in err
    code, _, err = run("inspect", f"{form}:{at}:none")
    assert code == 1 and "no image of that name: there are docker.io/library/one:amd" in err


def test_inspecting_a_directory(run: Run, tmp_path: Path) -> None:
    image = made.make_image(made.layer_tar({"a": b"1"}))
    (tmp_path / "d").mkdir()
    (tmp_path / "d/manifest.json").write_bytes(image.manifest)
    name = made.digest(image.config).partition(":")[2]
    (tmp_path / "d" / name).write_bytes(image.config)
    assert run("inspect", "--raw", f"dir:{tmp_path / 'd'}")[1].encode() == image.manifest
    assert run("inspect", "--raw", "--config", f"dir:{tmp_path / 'd'}")[1].encode() == image.config
    (tmp_path / "d" / name).write_bytes(image.config + b" ")
    code, out, err = run("inspect", "--config", f"dir:{tmp_path / 'd'}")
    assert (code, out) == (1, "") and name in err
    for data in (b"<html>", b"[]", b"\xff", b"{}"):
        (tmp_path / "d/manifest.json").write_bytes(data)
        code, _, err = run("inspect", "--config", f"dir:{tmp_path / 'd'}")
        assert code == 1 and err.count("\n") == 1 and "internal" not in err
    (tmp_path / "d/manifest.json").unlink()
    assert run("inspect", f"dir:{tmp_path / 'd'}")[0] == 1


def test_an_index_that_steers_a_terminal_is_shown(server: RegistryServer, run: Run) -> None:
    server.add_manifest("app", "odd", {"schemaVersion": 2, "x": "\x1b[2J\u202e"})
    out = run("inspect", f"{server.host}/app:odd")[1]
    assert out.isascii() and "\x1b" not in out and parse_index(b'{"schemaVersion":2}').manifests == ()


# ---- push ----------------------------------------------------------------------------------------------


def test_pushing(store: Store, server: RegistryServer, run: Run, tmp_path: Path) -> None:
    """Its images are there before it is, and nobody sees where they came from."""
    with RegistryServer() as target:
        name = f"{target.host}/all:1"
        indexes.create_index(store, name, ["one:amd", f"{server.host}/app:s390x"], annotations={"a": "b"})
        code, out, err = run("push", "--digestfile", str(tmp_path / "digest"), name)
        assert code == 0, err
        data, media_type = target.manifests["all", "1"]
        assert out.strip() == (tmp_path / "digest").read_text().strip() == digest_of(data)
        value = json.loads(data)
        assert media_type == mediatypes.INDEX and value["annotations"] == {"a": "b"} and SOURCE not in data.decode()
        amd, other = index_named(store, name).manifests
        assert [entry["digest"] for entry in value["manifests"]] == [amd.digest, other.digest]
        assert target.manifests["all", other.digest][0] == server.manifests["app", "s390x"][0]
        blobs = {str(digest) for (_, digest) in target.blobs}
        for entry in value["manifests"]:
            document = json.loads(target.manifests["all", entry["digest"]][0])
            assert {part["digest"] for part in (document["config"], *document["layers"])} <= blobs
        puts = target.calls("PUT .*manifests")
        assert puts[-1].endswith("/1") and len(puts) == 3
        sent = len(target.calls("PATCH|PUT .*blobs"))
        assert run("push", "-q", name)[0] == 0 and len(target.calls("PATCH|PUT .*blobs")) == sent
        assert run("push", "--purge", name, f"{target.host}/else:2")[0] == 0
        assert target.manifests["else", "2"][0] == data and run("push", name)[0] == 1


def test_what_is_in_the_registry_is_mounted(store: Store, server: RegistryServer, run: Run) -> None:
    name = f"{server.host}/all:1"
    indexes.create_index(store, name, [f"{server.host}/app:both"], which=Which(all=True))
    before = len(server.seen)
    assert run("push", name)[0] == 0
    calls = [f"{one.method} {one.path}" for one in server.seen[before:]]
    assert len([call for call in calls if "mount=" in call and "from=app" in call]) == 4
    assert not [call for call in calls if call.startswith(("PATCH", "GET /v2/app/blobs/sha256")) and "config" in call]
    assert server.manifests["all", "1"][0] == index_bytes(store, name)


def index_bytes(store: Store, name: str) -> bytes:
    from fastlayer.oci.image_index import new_index

    return new_index(map(indexes.without_source, index_named(store, name).manifests)).raw


def test_a_source_that_breaks_goes_on(store: Store, server: RegistryServer, run: Run) -> None:
    (layer,) = json.loads(server.manifests["app", "s390x"][0])["layers"]
    server.fail(f"GET .*{layer['digest']}", 1, cut=3000)
    with RegistryServer() as target:
        indexes.create_index(store, f"{target.host}/all:1", [f"{server.host}/app:s390x"])
        code, _, err = run("push", f"{target.host}/all:1")
        assert code == 0, err
        assert ("all", "1") in target.manifests
    assert server.last(f"GET .*{layer['digest']}").headers["Range"] == "bytes=3000-"


@pytest.mark.parametrize("spoil", [True, False])
def test_what_cannot_be_pushed_gets_no_name(store: Store, server: RegistryServer, run: Run, spoil: bool) -> None:
    with RegistryServer() as target:
        name = f"{target.host}/all:1"
        indexes.create_index(store, name, ["one:amd", f"{server.host}/app:s390x"])
        if spoil:
            (layer,) = json.loads(server.manifests["app", "s390x"][0])["layers"]
            server.fail(f"GET .*{layer['digest']}", spoil=True)
        else:
            del server.manifests["app", digest(server, "s390x")]
        code, out, err = run("push", "-q", "--retry-times", "0", name)
        assert (code, out) == (1, "") and err.count("\n") == 1, err
        assert ("all", "1") not in target.manifests
        if spoil:
            server.faults.clear()
            assert run("push", name)[0] == 0
    for words in ((name, "oci:x"), (name, f"{server.host}/a@{digest(server, 'both')}")):
        assert run("push", *words)[0] == 2
