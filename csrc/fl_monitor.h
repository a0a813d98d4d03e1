/* Looking after a program that outlives who started it.
 *
 *   caller -- (a fork that ends at once) -- monitor -- keeper -- child (fl_run.h)
 *
 * The monitor is a session of its own in the caller's namespaces. It passes what the program
 * writes on to its log and to whoever is attached, and what those send to the program; when it
 * has ended it removes cgroups, writes down how, and tells everybody. When the monitor is killed,
 * the keeper kills the program.
 *
 * Files in the directory `dir` (written to a name with a dot before it, and renamed):
 *   running   "PID MONITOR NANOSECONDS", blanks, "\n" when the program has been executed
 *   exit      "STATUS OOM NANOSECONDS", likewise, when it has ended (times since 1970; OOM 0 or 1)
 *   log.json  lines as Docker's json-file driver writes them; older ones log.json.1 and so on
 *   attach    the listener's socket, removed in the end
 * `lock` is an open file with a lock (flock(2)): it is closed after all that. A client that is slow to take the last
 * output is waited for after that, so that the end of the program does not wait for it.
 *
 * Talk on sockets (SOCK_SEQPACKET, one message a packet; the first byte says what it is).
 *   from clients: 'A' wants the output from now on   'i' DATA standard input   'e' its end
 *                 'w' ROWS COLUMNS (uint16, native order)   's' NUMBER (a byte): a signal
 *   to clients:   'o' DATA standard output   'r' DATA standard error   'a' an 'i' has been taken
 *                 'k' ERRNO (int32): the answer to 's'   'x' STATUS OOM (int32): the end
 * A client sends its next 'i' when the last one has been taken, so that no other message waits.
 * One that does not read what it wants stops the program's output, as a full pipe does.
 */
#ifndef FL_MONITOR_H
#define FL_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "fl_error.h"
#include "fl_run.h"

/* Descriptors are the caller's, and -1 where there is none; the monitor has copies of them. */
struct fl_monitor {
    int dir, lock;
    int listener;
    int client;              /* attached from the beginning: it wants the output        */
    int out, err, in;        /* our ends of the program's pipes                         */
    int terminal;            /* the socket FL_RUN_STEP_TERMINAL sends the master through */
    int master;              /* or the master itself                                    */
    int rows, columns;       /* of the terminal, 0: unknown                             */
    bool stdin_once;         /* standard input ends when `client` goes                  */
    int news;                /* the writing end of a pipe of records for the caller: those of the keeper,
                                FL_RUN_BEGUN, and FL_RUN_EXIT when everything is done    */
    int life;                /* the writing end of run->life                            */
    uint64_t log_size;       /* bytes after which a new log is begun; 0: never          */
    int log_files;           /* that are kept; 0: there is no log                       */
    int oom;                 /* memory.events or memory.oom_control of its cgroup       */
    const char *const *cgroups; /* directories to be removed in the end                 */
    const char *const *cleanup; /* executed in the end when `client` has gone           */
    char *const *environment;
};

/* run->life is the reading end; run->report and run->ready are made here. Returns when the monitor has been forked. */
int fl_monitor_start(const struct fl_run *run, const struct fl_monitor *monitor, struct fl_error *err);

#endif
