/* user-mode-linux 6.1 on processors whose state is larger than it knows (AMX): what it sets of a process is completed.
 *
 * It keeps about 2.7 KB of the extended state, which the kernel takes only as a whole (PTRACE_SETREGSET of
 * NT_X86_XSTATE, arch/x86/kernel/fpu/regset.c): EFAULT, and the guest's first process dies. Preloaded into it, this
 * adds the rest as the process has it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_call)(enum __ptrace_request, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_call real;
    va_list words;
    va_start(words, request);
    pid_t process = va_arg(words, pid_t);
    void *address = va_arg(words, void *), *data = va_arg(words, void *);
    va_end(words);
    if (!real)
        real = (ptrace_call)dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return real(request, process, address, data);

    static _Thread_local char state[65536];
    struct iovec *given = data, whole = {state, sizeof(state)};
    if (real(PTRACE_GETREGSET, process, address, &whole) < 0 || whole.iov_len <= given->iov_len)
        return real(request, process, address, data);
    memcpy(state, given->iov_base, given->iov_len);
    return real(request, process, address, &whole);
}
