/* What the files of fl_run share. Everything here runs after the fork: plain system calls only, -1 and errno. */
#ifndef FL_RUN_PRIVATE_H
#define FL_RUN_PRIVATE_H

#include <sys/stat.h>

#include "fl_run.h"

#define FL_RUN_STUBS_MAX 1024u

/* One name that was made: it is taken away when it is still the same empty thing. */
struct fl_run_stub {
    int dir;             /* open for reading                                            */
    char name[256];
    dev_t dev;
    ino_t ino;
    bool is_dir;
};

struct fl_run_stubs {
    struct fl_run_stub *all; /* FL_RUN_STUBS_MAX                                        */
    size_t count;
};

/* Walks from `root` to path, making what is missing; `stubs` remembers it, or is NULL. */
int fl_run_stub_make(int root, const char *path, bool is_dir, struct fl_run_stubs *stubs);
void fl_run_stubs_remove(struct fl_run_stubs *stubs);

int fl_run_step(const struct fl_run *run, const struct fl_run_step *step, struct fl_run_stubs *stubs);
void fl_run_tell(int report, int what, int number, int value);

/* FL_RUN_STEP_TERMINAL. */
int fl_run_open_terminal(const struct fl_run *run, const struct fl_run_step *step);

/* fork(2) into the namespaces `flags`, without the handlers of libc. */
pid_t fl_run_fork(uint64_t flags);
/* All descriptors above 2 but those of `kept`, which is sorted by it. */
void fl_run_close_others(int *kept, size_t count);
void fl_run_reset_signals(void);

/* Takes from the process what a long life does not need: the private memory that came with the fork, but the stack and
 * what libc keeps for the thread. Nothing of the heap may be used afterwards. `maps`: opened by fl_run_open_maps while
 * there was a /proc, is closed. */
int fl_run_open_maps(void);
void fl_run_give_back(int maps);

/* What a fork that is to be the keeper does; *given is copied. Does not return. */
void fl_run_live_as_keeper(const struct fl_run *given) __attribute__((noreturn));

/* Does not return; `number` of the report tells the stage. */
void fl_run_become(const struct fl_run *run) __attribute__((noreturn));

/* Bit i: path i of the program leads to a magic link. To be asked before there is a filter, which may refuse openat2. */
uint64_t fl_run_find_magic(const struct fl_run_program *program);
/* Executes the first path that can be; returns errno. */
int fl_run_execute(const struct fl_run_program *program, uint64_t magic);

/* Ends all descendants of the caller, which must be their subreaper, and waits for them. */
void fl_run_kill_all(void);

#endif
