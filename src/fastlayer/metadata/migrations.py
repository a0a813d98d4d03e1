"""The layout of ``metadata.db``, version by version. A version that was released is never edited: append the next.

Words: a *snapshot* row's ``number`` is its folder in the driver's directory; ``key`` names an active one or a view,
``name`` (the same column) a committed one, where image layers are named by their chain id. ``state``: ``making`` and
``removing`` rows belong to a lease, and so do temporary ones; when its holder is dead the next garbage collection
clears them away. ``sealing``: the lease of whoever is making a committed snapshot read-only.
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Who works in the store now. The holder keeps the file leases/ID locked: the kernel tells when it is dead.
        """CREATE TABLE leases (
            id TEXT PRIMARY KEY,
            pid INTEGER NOT NULL,
            what TEXT NOT NULL,
            created_ns INTEGER NOT NULL
        )""",
        # What a lease keeps from being collected, besides the snapshots it makes.
        """CREATE TABLE lease_refs (
            lease TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
            kind TEXT NOT NULL CHECK (kind IN ('blob', 'snapshot')),
            ref TEXT NOT NULL,
            PRIMARY KEY (lease, kind, ref)
        ) WITHOUT ROWID""",
        """CREATE TABLE snapshots (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            driver TEXT NOT NULL,
            key TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
            state TEXT NOT NULL CHECK (state IN ('making', 'ready', 'removing')),
            parent INTEGER REFERENCES snapshots(number),
            lease TEXT,
            labels TEXT NOT NULL DEFAULT '{}',
            size_limit INTEGER,
            created_ns INTEGER NOT NULL,
            sealing TEXT,
            bytes INTEGER,
            inodes INTEGER,
            shared INTEGER
        )""",
        "CREATE UNIQUE INDEX snapshot_keys ON snapshots(driver, key) WHERE state != 'removing'",
        "CREATE INDEX snapshot_parents ON snapshots(parent)",
        # Layers by their blob. payload: bytes of the files in it. present=0: the bytes are made again from the snapshot
        # when someone needs them.
        """CREATE TABLE layers (
            digest TEXT PRIMARY KEY,
            diff_id TEXT NOT NULL,
            media_type TEXT NOT NULL,
            size INTEGER NOT NULL,
            tar_size INTEGER NOT NULL,
            payload INTEGER NOT NULL,
            present INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX layer_diff_ids ON layers(diff_id)",
        """CREATE TABLE images (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            media_type TEXT NOT NULL,
            size INTEGER NOT NULL,
            updated_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX image_digests ON images(digest)",
        # What lists of images show, per manifest, so that no blob has to be opened for them.
        """CREATE TABLE manifests (
            digest TEXT PRIMARY KEY,
            config_digest TEXT NOT NULL,
            platform TEXT NOT NULL,
            created TEXT,
            chain_id TEXT,
            layers TEXT NOT NULL
        ) WITHOUT ROWID""",
        # What a manifest or index is made of: what keeps blobs in the store besides the images' names.
        """CREATE TABLE blob_refs (
            parent TEXT NOT NULL,
            child TEXT NOT NULL,
            PRIMARY KEY (parent, child)
        ) WITHOUT ROWID""",
        # A mount, and the writable layer that outlives it when it has a name.
        """CREATE TABLE writable (
            name TEXT PRIMARY KEY,
            driver TEXT NOT NULL,
            key TEXT NOT NULL,
            image TEXT NOT NULL,
            manifest TEXT NOT NULL,
            created_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE mounts (
            target TEXT PRIMARY KEY,
            driver TEXT NOT NULL,
            key TEXT NOT NULL,
            image TEXT NOT NULL,
            writable TEXT,
            mount_number INTEGER NOT NULL,
            depth INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            mount_ns INTEGER NOT NULL,
            created_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # The id in the file `identity` of each driver's directory: store/driver_root.py.
        """CREATE TABLE driver_roots (
            driver TEXT PRIMARY KEY,
            identity TEXT NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # One row for each snapshot that is mounted, from before it is. lease: of who mounts it, until that is done.
        # sign: what the kernel shows it by (mounts/signs.py); empty in rows of the first layout.
        """CREATE TABLE mounts_2 (
            driver TEXT NOT NULL,
            key TEXT NOT NULL,
            target TEXT NOT NULL,
            image TEXT NOT NULL,
            writable TEXT,
            mount_number INTEGER NOT NULL,
            depth INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            mount_ns INTEGER NOT NULL,
            created_ns INTEGER NOT NULL,
            sign TEXT NOT NULL,
            lease TEXT,
            PRIMARY KEY (driver, key)
        ) WITHOUT ROWID""",
        """INSERT OR IGNORE INTO mounts_2
            SELECT driver, key, target, image, writable, 0, depth, boot_id, mount_ns, created_ns, '', NULL
            FROM mounts ORDER BY created_ns DESC""",
        "DROP TABLE mounts",
        "ALTER TABLE mounts_2 RENAME TO mounts",
    ),
    (
        # What the steps of builds came to, by their keys (builder/cache.py). layer: digest of the layer, NULL for a
        # step that changed no file; chain: of the stack with it; what: the instruction; inputs: JSON, what the key was
        # made of, for those who ask why it is another one. They keep layers and snapshots until `cache prune`.
        """CREATE TABLE build_steps (
            key TEXT PRIMARY KEY,
            layer TEXT,
            chain TEXT,
            what TEXT NOT NULL,
            inputs TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            used_ns INTEGER NOT NULL,
            duration_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX build_step_layers ON build_steps(layer)",
        "CREATE INDEX build_step_texts ON build_steps(what)",
        # Directories of what was copied, by the digest of their entries (builder/context/merkle.py).
        """CREATE TABLE build_nodes (
            digest BLOB PRIMARY KEY,
            data BLOB NOT NULL
        ) WITHOUT ROWID""",
        # Directories that RUN --mount=type=cache keeps, below <root>/cache/mounts/NUMBER.
        """CREATE TABLE cache_mounts (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            used_ns INTEGER NOT NULL,
            lease TEXT
        )""",
        "CREATE INDEX cache_mount_ids ON cache_mounts(id)",
    ),
    (
        # Volumes (volume/). lease: of who makes or removes it; filling: of who copies an image's files into it;
        # snapshot_driver, snapshot_key: of one that is made of an image, its active snapshot.
        """CREATE TABLE volumes (
            name TEXT PRIMARY KEY,
            driver TEXT NOT NULL,
            options TEXT NOT NULL,
            labels TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('making', 'ready', 'removing')),
            lease TEXT,
            filling TEXT,
            snapshot_driver TEXT,
            snapshot_key TEXT,
            created_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
        # Who has a volume: a container, a mount of a plugin's client. mounted: it needs the files now, since boot_id.
        # mount_ns: where it was mounted for it; owner: the process that asked, "PID START-TIME", or nothing.
        """CREATE TABLE volume_users (
            volume TEXT NOT NULL REFERENCES volumes(name) ON DELETE CASCADE,
            user TEXT NOT NULL,
            mounted INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            mount_ns INTEGER NOT NULL,
            owner TEXT NOT NULL,
            PRIMARY KEY (volume, user)
        ) WITHOUT ROWID""",
        "CREATE INDEX volume_users_by_user ON volume_users(user)",
        # key: the committed snapshot, of a volume that is made of an image; else it is a directory of the volume's.
        """CREATE TABLE volume_snapshots (
            volume TEXT NOT NULL REFERENCES volumes(name) ON DELETE CASCADE,
            name TEXT NOT NULL,
            key TEXT,
            created_ns INTEGER NOT NULL,
            PRIMARY KEY (volume, name)
        ) WITHOUT ROWID""",
    ),
    (
        # Containers: a writable layer of the same name and a configuration (containers/ID/config.json, which has
        # everything; here is what lists and searches need). command: JSON array, labels: JSON object. auto_remove: it
        # goes when it has ended. How it is doing is told by files (container/state.py).
        """CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            image TEXT NOT NULL,
            image_id TEXT NOT NULL,
            command TEXT NOT NULL,
            labels TEXT NOT NULL,
            auto_remove INTEGER NOT NULL,
            created_ns INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # In which repositories of a registry a blob is, because it came from there or went there: from them it is
        # mounted into others (transfer/known.py).
        """CREATE TABLE blob_sources (
            digest TEXT NOT NULL,
            registry TEXT NOT NULL,
            repository TEXT NOT NULL,
            used_ns INTEGER NOT NULL,
            PRIMARY KEY (digest, registry, repository)
        ) WITHOUT ROWID""",
        # What a layer came to when it was compressed on its way to somebody else, and kept nowhere here. form: codec
        # and level, "gzip:1"; made: the diff id of the tar inside; annotations: JSON object, of its descriptor.
        """CREATE TABLE layer_forms (
            diff_id TEXT NOT NULL,
            form TEXT NOT NULL,
            digest TEXT NOT NULL,
            size INTEGER NOT NULL,
            made TEXT NOT NULL,
            annotations TEXT NOT NULL,
            PRIMARY KEY (diff_id, form)
        ) WITHOUT ROWID""",
    ),
)
