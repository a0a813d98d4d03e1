/* Running a program in a root file system.
 *
 * A run has two processes, both forked without a thread of the caller's coming along:
 *
 *   caller -- keeper -- child (becomes the program)
 *
 * The keeper does its steps (mounts the root in a mount namespace of its own, makes
 * mount points that are missing), clones the child into further namespaces, waits for it,
 * ends everything the program has left running, takes the mount points away again and
 * exits. It closes every descriptor but those of the run, so it holds no lock and no pipe
 * of the caller. The child does its steps, gives up its rights and executes the program.
 *
 * `life`: the reading end of a pipe whose writing end only the caller has. A byte answers
 * FL_RUN_STEP_MAP; any later one is the number of a signal for the child; its end (the
 * caller closed it, or died) ends the run.
 * `report`: the writing end of a pipe of struct fl_run_record. When the keeper has exited
 * (wait for it), the program, its descendants, all mounts and mount points are gone.
 *
 * Steps are data: one system call each, or few, in order, prepared completely before the
 * fork. Between fork and exec nothing is allocated, locked or formatted. Descriptors that
 * steps share are in numbered slots; a slot given with a descriptor is not closed for the
 * caller. All others are O_CLOEXEC and the keeper's.
 *
 * Paths of the root are resolved by the kernel after the root has become the process's own
 * (pivot_root, chroot) and before any procfs is mounted in it, so no link in it leads out;
 * FL_RUN_STEP_STUB, which comes before that as well, walks by itself below the directory
 * of a slot.
 */
#ifndef FL_RUN_H
#define FL_RUN_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fl_error.h"

enum { FL_RUN_TREE_ALONE = 1 }; /* without the mounts below */

enum fl_run_op {
    FL_RUN_STEP_UNSHARE = 1,    /* flags in number                                     */
    FL_RUN_STEP_MAP = 2,        /* reports FL_RUN_MAP, waits for a byte                 */
    FL_RUN_STEP_ROOT_IDS = 3,   /* becomes user and group 0                             */
    FL_RUN_STEP_PRIVATE = 4,    /* no mount is seen by, or comes from, another namespace */
    FL_RUN_STEP_TREE = 5,       /* slot = copy of the mount at one and all below; number: FL_RUN_TREE_ALONE,
                                   MS_SLAVE or MS_SHARED, which only makes it other than private */
    FL_RUN_STEP_READONLY = 6,   /* the mounts in slot, or if number is FL_RUN_TREE_ALONE the topmost */
    FL_RUN_STEP_ATTACH = 7,     /* slot onto one                                        */
    FL_RUN_STEP_MOUNT = 8,      /* mount(2): type one, target two, data three, flags number */
    FL_RUN_STEP_OPEN = 9,       /* slot = the directory one                             */
    FL_RUN_STEP_CHDIR = 10,
    FL_RUN_STEP_PIVOT = 11,     /* the mount that slot is the root of becomes the root  */
    FL_RUN_STEP_CHROOT = 12,    /* the directory in slot                                */
    FL_RUN_STEP_STUB = 13,      /* mount point one below the directory in slot; number: enum fl_run_stub_flags; what
                                   had to be made is taken away in the end             */
    FL_RUN_STEP_MAKE = 14,      /* the same below the root, to stay; slot is not used; a directory if number */
    FL_RUN_STEP_DIRECTORY = 15, /* mkdir one                                            */
    FL_RUN_STEP_SYMLINK = 16,   /* one: what it says; two: its name                     */
    FL_RUN_STEP_FILE = 17,      /* one, new, with the text two                          */
    FL_RUN_STEP_UNLINK = 18,
    FL_RUN_STEP_PLAIN = 19,     /* one must be a directory, and no link (ENOTDIR)       */
    FL_RUN_STEP_MASK = 20,      /* one, if it is there: a directory by an empty one, else by the file two */
    FL_RUN_STEP_LOCK = 21,      /* one, if it is there, is made read-only               */
    FL_RUN_STEP_HOSTNAME = 22,
    FL_RUN_STEP_LOOPBACK = 23,  /* the interface lo is set up                           */
    FL_RUN_STEP_UMOUNT = 24,    /* what is on one, and all below it                     */
    FL_RUN_STEP_NODEV = 25,     /* device files of the mounts in slot cannot be opened   */
    FL_RUN_STEP_SETNS = 26,     /* the namespaces `number` of the process whose pidfd is in slot */
    FL_RUN_STEP_JOIN = 27,      /* the cgroup whose cgroup.procs is open in slot        */
    FL_RUN_STEP_TERMINAL = 28,  /* a new terminal of /dev/pts: slot = its slave; its master goes through the socket
                                   `number` of the slots; one: where it is shown besides (/dev/console), or NULL */
    FL_RUN_STEP_WRITE = 29,     /* the text two into the file one                       */
    FL_RUN_STEP_HIDE = 30,      /* until it executes something, others cannot look into the process
                                   (PR_SET_DUMPABLE): its program is the caller's       */
    FL_RUN_STEP_OPTIONAL = 256, /* added to an op: a failure is passed over             */
};

enum fl_run_stub_flags {
    FL_RUN_STUB_DIRECTORY = 1, /* else a file                                          */
    FL_RUN_STUB_STAYS = 2,     /* it is not taken away                                 */
};

struct fl_run_step {
    int op;
    int slot;
    uint64_t number;
    const char *one, *two, *three;
};

/* After the steps of the child, in this order; numbers of what failed in a record. */
enum fl_run_stage {
    FL_RUN_STDIO = 1,
    FL_RUN_CWD = 2,
    FL_RUN_SECCOMP = 3,
    FL_RUN_BOUNDING = 4,
    FL_RUN_GROUPS = 5,
    FL_RUN_USER = 6,
    FL_RUN_CAPS = 7,
    FL_RUN_EXEC = 8,
    FL_RUN_LIMITS = 9,
};

/* A limit of setrlimit(2); UINT64_MAX: none. */
struct fl_run_limit {
    int resource;
    uint64_t soft, hard;
};

struct fl_run_program {
    const char *const *paths;    /* tried in order, as execvp does; NULL at the end     */
    bool apart;                  /* others who run in the root must not lead it astray: needs execveat(2) */
    char *const *argv, *const *envp;
    const char *cwd;
    uint32_t uid, gid;
    const gid_t *groups;
    int group_count;             /* -1: they stay as they are                           */
    bool keep_caps;              /* else only those of `caps` (bit numbers) remain      */
    uint64_t caps;
    bool no_new_privs;
    const struct sock_filter *filter;
    unsigned short filter_len;   /* 0: no seccomp filter                                */
    unsigned filter_flags;       /* SECCOMP_FILTER_FLAG_*                               */
    const struct fl_run_limit *limits;
    size_t limit_count;
    int stdio[3];
    int terminal;                /* slot of the terminal that takes their place, or -1  */
};

struct fl_run {
    const struct fl_run_step *keeper;
    size_t keeper_count;
    const struct fl_run_step *child;
    size_t child_count;
    uint64_t namespaces;         /* CLONE_NEW* of the child                             */
    bool whole_tree;             /* without a pid namespace: descendants are looked for */
    struct fl_run_program program;
    int *slots;                  /* -1 or a descriptor                                  */
    size_t slot_count;
    int life, report;
    int ready;                   /* -1, or a pipe's end that only the child keeps, until it executes the program: the
                                    keeper reports FL_RUN_PID before it closes its own, and keeps little memory */
};

enum fl_run_what {
    FL_RUN_MAP = 1,    /* the keeper, whose pid is `value`, waits for its id maps       */
    FL_RUN_KEEPER = 2, /* step `number` of the keeper failed with `value` (errno)       */
    FL_RUN_CHILD = 3,  /* likewise of the child                                         */
    FL_RUN_STAGE = 4,  /* likewise a stage                                              */
    FL_RUN_EXIT = 5,   /* the program has ended: its status, or 128 + signal            */
    FL_RUN_PID = 6,    /* of the child, in `value`                                      */
    FL_RUN_BEGUN = 7,  /* by a monitor (fl_monitor.h): the program runs; `number`: the monitor's pid, `value`: its own */
};

struct fl_run_record {
    int32_t what, number, value, reserved;
};

/* Returns the pid of the keeper, a child of the caller. */
int fl_run_start(const struct fl_run *run, struct fl_error *err);

#endif
