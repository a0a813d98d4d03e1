/* The terminal of a container: made in its own /dev/pts, so that it has a name there. */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "fl_buf.h"

#define TIOCGPTPEER_ 0x5441

static int send_descriptor(int socket, int fd)
{
    char byte = 't', space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof(int));
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

/* "/dev/pts/N" */
static void name_of(unsigned number, char *ret)
{
    char digits[12];
    int count = 0;

    memcpy(ret, "/dev/pts/", 9);
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    for (int i = 0; i < count; i++)
        ret[9 + i] = digits[count - 1 - i];
    ret[9 + count] = '\0';
}

static int show_at(const char *place, unsigned number)
{
    char name[32];
    int fd = open(place, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return -1;
    close(fd);
    name_of(number, name);
    return mount(name, place, NULL, MS_BIND, NULL);
}

int fl_run_open_terminal(const struct fl_run *run, const struct fl_run_step *step)
{
    cleanup_fd int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    int locked = 0, slave;
    unsigned number;

    if (master < 0 || ioctl(master, TIOCSPTLCK, &locked) < 0 || ioctl(master, TIOCGPTN, &number) < 0)
        return -1;
    slave = ioctl(master, TIOCGPTPEER_, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || (step->one != NULL && show_at(step->one, number) < 0))
        return -1;
    run->slots[step->slot] = slave;
    return send_descriptor(run->slots[step->number], master);
}
