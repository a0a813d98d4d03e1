/* What the files of fl_monitor share. All of it lives in one shared anonymous mapping: see fl_run_give_back. */
#ifndef FL_MONITOR_PRIVATE_H
#define FL_MONITOR_PRIVATE_H

#include <stddef.h>
#include <sys/types.h>

#include "fl_monitor.h"

#define FL_MONITOR_CHUNK 32768u /* bytes of data in a message */
#define FL_MONITOR_CLIENTS 16
#define FL_MONITOR_LINE 16384u  /* bytes of a line in the log: Docker's */
#define FL_MONITOR_NOTE 80u     /* bytes of a note */
#define FL_MONITOR_ESCAPED (6u * FL_MONITOR_LINE + 256u)

struct fl_monitor_line {
    size_t length;
    char data[FL_MONITOR_LINE];
};

struct fl_monitor_log {
    int dir, fd, files;
    uint64_t limit, size;
    struct fl_monitor_line lines[2]; /* what came of standard output and error since their last line ended */
    char text[FL_MONITOR_ESCAPED];
};

struct fl_monitor_client {
    int fd;
    bool wants; /* the output */
    bool owes;  /* the chunk has not been sent to it yet */
    size_t at;  /* in the last messages: what it gets next */
};

struct fl_monitor_life {
    struct fl_monitor m;
    int report, ready;
    pid_t keeper, child;
    bool whole_tree;         /* what the keeper leaves is looked for */
    int child_fd; /* of the child, or -1 */
    int status;
    bool failed, begun, ended, orphaned, out_of_memory, first_stayed; /* orphaned: its keeper was killed */
    struct fl_monitor_client clients[FL_MONITOR_CLIENTS]; /* the first is the one from the beginning */
    char chunk[1 + FL_MONITOR_CHUNK];                     /* what is being sent: type and data */
    size_t chunk_size;
    char input[FL_MONITOR_CHUNK];                         /* what is being written to the program */
    size_t input_at, input_size;
    int input_from;                                       /* the client it came from */
    bool input_ends;
    struct fl_monitor_log log;
    char *last;                                           /* what is sent after the end: uint32_t size, message, ... */
    size_t last_size, last_room;
    size_t heap_used, heap_size;
    char heap[];                                          /* texts that the caller gave */
};

/* False: it has gone, or does not take it now (then EAGAIN). */
bool fl_monitor_send(struct fl_monitor_life *l, int number, const void *data, size_t size);
/* Takes and obeys one message of a client. */
void fl_monitor_hear(struct fl_monitor_life *l, int number);

/* A message for everybody who wants the output. Where there is no memory it is lost. */
void fl_monitor_add_last(struct fl_monitor_life *l, const char *message, size_t size);
/* Everybody who is attached gets it, however slow it is. */
void fl_monitor_send_rest(struct fl_monitor_life *l);

void fl_monitor_log_open(struct fl_monitor_log *log, int dir, uint64_t limit, int files);
/* stream: 0 output, 1 error. */
void fl_monitor_log_add(struct fl_monitor_log *log, int stream, const char *data, size_t size);
/* What is left of lines that never ended. */
void fl_monitor_log_end(struct fl_monitor_log *log);

int64_t fl_monitor_now(void);
/* Decimal digits and `after`; returns the byte behind them. */
char *fl_monitor_number(char *at, int64_t value, char after);
/* Three numbers, in a file of that name, at once. Where a file ".NAME" of FL_MONITOR_NOTE bytes is there already, it is
 * used up, which takes no room on the disk. */
void fl_monitor_note(int dir, const char *name, int64_t one, int64_t two, int64_t three);

#endif
