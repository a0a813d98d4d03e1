/* What is sent when the program has ended: the last of its output, and how. The end does not wait for who takes it. */
#include "fl_monitor_private.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST_ROOM (256ul << 10) /* bytes */

void fl_monitor_add_last(struct fl_monitor_life *l, const char *message, size_t size)
{
    uint32_t length = (uint32_t)size;
    size_t needed = l->last_size + sizeof(length) + size, room = l->last_room == 0 ? FIRST_ROOM : l->last_room;
    void *grown;

    while (room < needed)
        room *= 2;
    if (room != l->last_room) {
        grown = l->last == NULL ? mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                : mremap(l->last, l->last_room, room, MREMAP_MAYMOVE);
        if (grown == MAP_FAILED)
            return;
        l->last = grown;
        l->last_room = room;
    }
    memcpy(l->last + l->last_size, &length, sizeof(length));
    memcpy(l->last + l->last_size + sizeof(length), message, size);
    l->last_size = needed;
}

/* True when the client takes no more now, and there is more. */
static bool send_last(struct fl_monitor_life *l, int number)
{
    struct fl_monitor_client *client = &l->clients[number];
    uint32_t length;

    while (client->fd >= 0 && client->wants && client->at < l->last_size) {
        memcpy(&length, l->last + client->at, sizeof(length));
        if (!fl_monitor_send(l, number, l->last + client->at + sizeof(length), length))
            return client->fd >= 0;
        client->at += sizeof(length) + length;
    }
    return false;
}

void fl_monitor_send_rest(struct fl_monitor_life *l)
{
    if (l->m.listener >= 0)
        close(l->m.listener);
    l->m.listener = -1;
    for (;;) {
        struct pollfd fds[FL_MONITOR_CLIENTS];
        bool waits = false;

        for (int i = 0; i < FL_MONITOR_CLIENTS; i++) {
            bool more = send_last(l, i);

            fds[i] = (struct pollfd){.fd = more ? l->clients[i].fd : -1, .events = POLLIN | POLLOUT};
            waits |= more;
        }
        if (!waits)
            break;
        if (poll(fds, FL_MONITOR_CLIENTS, -1) < 0)
            continue;
        for (int i = 0; i < FL_MONITOR_CLIENTS; i++)
            if (fds[i].fd >= 0 && (fds[i].revents & ~POLLOUT))
                fl_monitor_hear(l, i);
    }
    l->first_stayed = l->clients[0].fd >= 0;
}
