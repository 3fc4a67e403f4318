/* The client of the agent: `client HOOK ARGUMENT…`, as the first line of an installed hook has the kernel run it.
 *
 * It does what hooks/run does with vmnet_hooks/hook/{__init__,client}.py, without starting Python: it ignores calls that do not
 * matter, and has the agent serve the others. If that fails (no agent, a refusal, a broken answer, too much input), it becomes
 * the Python program, which serves the call. TABLE is what table.py prints. All memory is static; what is written there is bounded.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct hook { /* see class Row of vmnet_hooks/frontends; lists end with NULL */
    const char *name, *front_end, *variable, *const *operations, *const *preparing, *const *mark;
    int position;
    bool of_root, served, reads_stdin;
};
struct place { const char *inside, *end; int hook; }; /* a path with `inside`, and `end` at its end, is that of HOOKS[hook] */
#include TABLE

enum { MAX_HEAD = 256, MAX_VARIABLES = 1024, MAX_LINKS = 64, MAX_ARGUMENTS = 1 << 20 /* Linux: 6 MiB, of 9 bytes at least */ };

static char request[MAX_HEAD + 2 * MAX_WORDS + MAX_STDIN], *const body = request + MAX_HEAD, answer[MAX_ANSWER + 2];
static size_t arguments, variables, input; /* bytes in the body: arguments, environment, standard input */

/* Return the last link before the program, as hooks/run does; NULL if the path is relative, or one becomes too long. */
static const char *called_as(const char *path)
{
    static char absolute[2][PATH_MAX], target[PATH_MAX];
    ssize_t length = 0;

    for (int link = 0; *path == '/' && link < MAX_LINKS && (length = readlink(path, target, PATH_MAX - 1)) >= 0; link++) {
        target[length] = 0;
        if (!strcmp(target, "../run"))
            return path;
        int folder = *target == '/' ? 0 : (int)(strrchr(path, '/') + 1 - path);
        if (snprintf(absolute[link % 2], PATH_MAX, "%.*s%s", folder, path, target) >= PATH_MAX)
            return NULL;
        path = absolute[link % 2];
    }
    return length < 0 ? path : NULL;
}

static const struct hook *hook_at(const char *path)
{
    for (const struct place *place = PLACES; place->end; place++) {
        size_t length = strlen(path), tail = strlen(place->end);
        if (length >= tail && !strcmp(path + length - tail, place->end) && strstr(path, place->inside))
            return &HOOKS[place->hook];
    }
    return NULL;
}

static bool is_in(const char *const *words, const char *word)
{
    while (*words && strcmp(*words, word))
        words++;
    return *words;
}

/* Whether the file may declare a bridge. One that can't be read, or is too long, may. */
static bool may_declare_bridges(const char *path)
{
    size_t length = 0;
    ssize_t more = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return false;
    while (length < sizeof request && (more = read(file, request + length, sizeof request - length)) > 0)
        length += (size_t)more;
    close(file);
    return more || memmem(request, length, "bridges", 7) ||
           (memmem(request, length, "bridged", 7) && memmem(request, length, "uplink", 6));
}

static bool has_bridges(void)
{
    bool found = may_declare_bridges(CONFIGURATION "/vmnet.toml");
    DIR *folder = found ? NULL : opendir(CONFIGURATION "/conf.d");
    char path[PATH_MAX];

    for (struct dirent *entry; folder && !found && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            snprintf(path, PATH_MAX, CONFIGURATION "/conf.d/%s", entry->d_name);
            found = may_declare_bridges(path);
        }
    if (folder)
        closedir(folder);
    return found;
}

static bool has_mark(const struct hook *hook)
{
    char path[PATH_MAX];
    int end = snprintf(path, PATH_MAX, RUN "/%s", hook->front_end);

    for (const char *const *name = hook->mark; *name && end < PATH_MAX; name++)
        end += snprintf(path + end, (size_t)(PATH_MAX - end), "%c%s", name == hook->mark ? ':' : '-', getenv(*name) ?: "");
    return end < PATH_MAX && !access(path, F_OK);
}

static bool matters(const struct hook *hook, int argc, char **argv)
{
    bool has_operation = 0 < hook->position && hook->position < argc;
    const char *operation = has_operation ? argv[hook->position] : "", *value = getenv(hook->variable);

    return !(has_operation && !is_in(hook->operations, operation)) && !(hook->of_root && geteuid()) &&
           !(*hook->variable && !(value && *value) && !has_mark(hook)) && !(is_in(hook->preparing, operation) && !has_bridges());
}

static bool append(char *to, size_t *length, const char *word)
{
    size_t size = strlen(word) + 1;

    if (size > MAX_WORDS - *length)
        return false;
    memcpy(to + *length, word, size);
    *length += size;
    return true;
}

/* Write arguments and environment into the body, without the last NUL of each. False if it is too much. */
static bool collect(const char *path, char **argv, char **environment)
{
    arguments = variables = input = 0;
    if (!append(body, &arguments, path))
        return false;
    while (*++argv)
        if (!append(body, &arguments, *argv))
            return false;
    arguments--;
    for (int i = 0, j = 0; environment[i]; i++, j = 0) {
        const char *is = strchr(environment[i], '=');
        /* Of a variable that is there twice, the first counts. */
        while (is && j < i && strncmp(environment[j], environment[i], (size_t)(is - environment[i] + 1)))
            j++;
        if (i == MAX_VARIABLES || (is && j == i && !append(body + arguments, &variables, environment[i])))
            return false;
    }
    variables -= variables > 0;
    return true;
}

static bool is_ready(int agent, short events, const struct timespec *end)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    long left = (end->tv_sec - now.tv_sec) * 1000 + (end->tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 && poll(&(struct pollfd){agent, events, 0}, 1, (int)left) > 0;
}

/* Ask a connected agent. Return the exit status, and the text for the standard error; -1 if the agent does not serve the call. */
static int ask(int agent, const struct hook *hook, const char **text, size_t *size)
{
    struct ucred peer;
    socklen_t found = sizeof peer;
    struct timespec end;
    ssize_t more = 0;
    size_t got = 0;
    char head[MAX_HEAD], *to = body + arguments + variables;

    if (getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &peer, &found) || (peer.uid && peer.uid != geteuid()))
        return -1;
    while (hook->reads_stdin && input < MAX_STDIN && (more = read(0, to + input, MAX_STDIN - input)) > 0)
        input += (size_t)more;
    if (more) /* an error, or too much */
        return -1;
    int length = snprintf(
        head, MAX_HEAD, "vmnet-hooks " VERSION " %s %d %zu %zu %zu\n", hook->name, getppid(), arguments, variables, input);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += SECONDS;
    for (char *from = memcpy(body - length, head, (size_t)length); from < to + input; from += more > 0 ? more : 0)
        if ((more = send(agent, from, (size_t)(to + input - from), MSG_NOSIGNAL)) < 0 &&
            (errno != EAGAIN || !is_ready(agent, POLLOUT, &end)))
            return -1;
    do { /* an answer that fills the buffer is too long */
        if (!is_ready(agent, POLLIN, &end) || (more = recv(agent, answer + got, MAX_ANSWER + 1 - got, 0)) < 0)
            return -1;
        got += (size_t)more;
    } while (more);
    answer[got] = 0;
    char *line = memchr(answer, '\n', got);
    long status = strtol(answer, NULL, 10);
    if (!line || got > MAX_ANSWER || status < 0 || status > 255)
        return -1;
    *text = line + 1;
    *size = got - (size_t)(*text - answer);
    length = snprintf(head, MAX_HEAD, "%ld %zu", status, *size);
    return length == line - answer && !memcmp(head, answer, (size_t)length) ? (int)status : -1;
}

/* Become the Python program, with the standard input given back. */
static int become_python(char **argv)
{
    static const char *words[MAX_ARGUMENTS];
    int file = input ? memfd_create("stdin", MFD_CLOEXEC) : -1, last = 0;

    if (file >= 0 && pwrite(file, body + arguments + variables, input, 0) == (ssize_t)input)
        dup2(file, 0);
    for (const char *const *word = (const char *[]){PYTHON, "-IS", PROGRAM, NULL}; *word;)
        words[last++] = *word++;
    while (*argv && last < MAX_ARGUMENTS - 1)
        words[last++] = *argv++;
    execv(PYTHON, (char *const *)words);
    dprintf(2, "vmnet-hook: %s: %s\n", PYTHON, strerror(errno));
    return 126;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? called_as(argv[1]) : NULL, *text;
    const struct hook *hook = path ? hook_at(path) : NULL;
    int status = -1;
    size_t size;

    argv += argc > 0; /* so that argv[0] is the hook */
    argc -= argc > 0;
    if (hook && !matters(hook, argc, argv))
        return 0;
    if (hook && hook->served && collect(path, argv, environ)) {
        struct sockaddr_un address = {AF_UNIX, SOCKET};
        int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (agent >= 0 && !connect(agent, (struct sockaddr *)&address, sizeof address))
            status = ask(agent, hook, &text, &size);
        close(agent); /* there may be no other descriptor for the input */
    }
    if (status < 0)
        return become_python(argv);
    signal(SIGPIPE, SIG_IGN);
    /* A reader that is gone does not change the status. */
    (void)!write(2, text, size);
    return status;
}
