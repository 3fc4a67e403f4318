/* A fuzzer of hooks/client.c, the same for the same SEED: `client_fuzz SEED SECONDS FOLDER`. CLIENT is that file, TABLE its table.
 *
 * What comes from outside is made up of fragments, and mutated: answers of the agent, arguments and environment, paths and links,
 * files of the configuration. What the client makes of it is compared with what simpler code here makes of it. FOLDER is empty.
 */
#define main client_main
#include CLIENT
#undef main

static unsigned long long state;

static unsigned draw(unsigned below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 11) % below);
}

static void fail(const char *what)
{
    fprintf(stderr, "client_fuzz: %s\n", what);
    abort();
}

static const char *const FRAGMENTS[] = {
    "/hooks/", "qemu", "qemu.d/", "libvirt", "/", "ifup", "xen/", "/scripts", "vmnet-", "vif-bridge", "..", "../run", "./", "run",
    "start", "prepare", "stopped", "IFACE", "ADDRFAM", "IF_IP_ROUTING_TABLE", "=", "a", "\xff", " ", "\n", "0 0\n", "- 0\n", "1 5\n", "255 ",
    "256 0\n", "-1 0\n", "+1 0\n", "00 0\n", "4294967296 0\n", "bridges", "bridged", "uplink", "bridge", "vmnet-hook: ", "99999999999999999999 0\n",
};

/* A text of fragments, noise, and now and then of a run that is longer than buffers; `size` is that of `to`. */
static size_t make(char *to, size_t size)
{
    size_t length = 0;

    for (unsigned part = draw(8); part; part--) {
        const char *fragment = FRAGMENTS[draw(sizeof FRAGMENTS / sizeof *FRAGMENTS)];
        size_t more = strlen(fragment);
        if (!draw(40))
            for (size_t run = draw(6000); run && length < size - 1; run--)
                to[length++] = (char)('a' + draw(3));
        if (length + more >= size)
            break;
        memcpy(to + length, fragment, more);
        length += more;
        if (length && !draw(6))
            to[draw((unsigned)length)] = (char)draw(256);
    }
    to[length] = 0;
    return length;
}

static void fuzz_answer(void)
{
    static char sent[3 * MAX_ANSWER], seen[MAX_HEAD];
    const char *text = NULL;
    size_t size = 0, length = 0;
    unsigned status = draw(300), kind = draw(8);
    int pair[2], file = memfd_create("in", MFD_CLOEXEC);
    bool reads = draw(2);
    struct hook hook = HOOKS[0];

    if (kind < 4) {
        char body_of_it[4096];
        size_t made = make(body_of_it, sizeof body_of_it);
        length = (size_t)sprintf(sent, "%u %zu\n", status, made + (kind == 3 ? draw(3) : 0));
        memcpy(sent + length, body_of_it, made);
        length += made;
        if (kind > 1)
            sent[draw((unsigned)length)] ^= (char)(1 << draw(8));
    } else if (kind == 4) { /* around the limit */
        size_t made = MAX_ANSWER - 12 + draw(16);
        length = (size_t)sprintf(sent, "%u %zu\n", status, made);
        memset(sent + length, 'x', made);
        length += made;
    } else if (kind < 7)
        length = make(sent, sizeof sent);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) || file < 0)
        fail("no descriptors");
    if (send(pair[1], sent, length, 0) != (ssize_t)length)
        fail("the answer does not fit");
    shutdown(pair[1], SHUT_WR);
    size_t given = reads ? draw(9000) : 0;
    memset(request, 'i', given);
    if (write(file, request, given) != (ssize_t)given || lseek(file, 0, SEEK_SET) || dup2(file, 0))
        fail("no input");
    hook.reads_stdin = reads;
    if (!collect("/x/hooks/libvirt/qemu", (char *[]){"x", "dom", NULL}, (char *[]){"A=b", NULL}))
        fail("does not fit");
    int got = ask(pair[0], &hook, &text, &size);
    int head = snprintf(seen, MAX_HEAD, "%d %zu\n", got, size);
    bool is_answer = got >= 0 && length <= MAX_ANSWER && (size_t)head + size == length && !memcmp(seen, sent, (size_t)head) &&
                     !memcmp(text, sent + head, size);
    if (got >= 0 && (!is_answer || got > 255))
        fail("took for an answer what is none");
    if (got < 0 && kind < 2 && status < 256)
        fail("refused an answer");
    ssize_t told = recv(pair[1], sent, sizeof sent, 0);
    if (told < 0 || memcmp(sent, "vmnet-hooks ", 12) || input != given)
        fail("asked wrongly");
    close(pair[0]);
    close(pair[1]);
    close(file);
}

static void fuzz_words(void)
{
    static char texts[1400][8192], naive[sizeof texts];
    char *argv[60], *environment[1300];
    size_t length = 0;
    unsigned arguments_given = 1 + draw(50), given = draw(20) ? draw(40) : draw(1200);

    for (unsigned i = 0; i < arguments_given + given; i++) {
        size_t made = make(texts[i], i < 80 ? sizeof texts[i] : 64);
        if (i < 80 && !draw(8))
            memset(texts[i], 'w', sizeof texts[i] - 1);
        else if (i >= arguments_given && draw(8) && made > 2)
            texts[i][draw((unsigned)made)] = '=';
    }
    for (unsigned i = 0; i < arguments_given; i++)
        argv[i] = texts[i];
    for (unsigned i = 0; i < given; i++)
        environment[i] = texts[arguments_given + (draw(10) ? i : draw(i + 1))];
    argv[arguments_given] = environment[given] = NULL;
    bool fits = collect("/path", argv, environment), is_small;
    for (unsigned i = 0; i < arguments_given; i++)
        length += (size_t)sprintf(naive + length, "%s%c", i ? argv[i] : "/path", 0);
    is_small = length <= MAX_WORDS && given <= MAX_VARIABLES;
    if (fits && (arguments != length - 1 || memcmp(body, naive, arguments)))
        fail("other arguments");
    length = 0;
    for (unsigned i = 0; i < given; i++) {
        bool is_first = strchr(environment[i], '=') != NULL;
        for (unsigned j = 0; is_first && j < i; j++) {
            size_t name = strcspn(environment[j], "=");
            is_first = !environment[j][name] || name != strcspn(environment[i], "=") || memcmp(environment[j], environment[i], name);
        }
        if (is_first)
            length += (size_t)sprintf(naive + length, "%s%c", environment[i], 0);
    }
    is_small = is_small && length <= MAX_WORDS;
    length -= length > 0;
    if (fits != is_small)
        fail("a wrong limit");
    if (fits && (variables != length || memcmp(body + arguments, naive, length)))
        fail("another environment");
    for (unsigned i = 0; i < 3; i++)
        setenv((const char *[]){"IFACE", "ADDRFAM", "IF_IP_ROUTING_TABLE"}[i], texts[i], 1);
    for (const struct hook *hook = HOOKS; hook < HOOKS + sizeof HOOKS / sizeof *HOOKS; hook++)
        matters(hook, (int)arguments_given, argv);
}

/* As called_as, without limits; whether the limits allow it. */
static bool follow(char *path)
{
    char target[PATH_MAX];
    ssize_t length;

    for (int links = 0; (length = readlink(path, target, sizeof target - 1)) >= 0; links++) {
        target[length] = 0;
        if (!strcmp(target, "../run"))
            return true;
        strcpy(*target == '/' ? path : strrchr(path, '/') + 1, target);
        if (strlen(path) >= PATH_MAX || links + 1 == MAX_LINKS)
            return false;
    }
    return true;
}

static void fuzz_path(void)
{
    char text[8192], target[3000], path[8 * PATH_MAX], last[16] = "";

    make(text, sizeof text);
    hook_at(text);
    /* Links that lead on to each other, to the program, or to what is made up. */
    for (unsigned link = draw(5) + 1; link; link--) {
        char name[16];
        sprintf(name, "link%u", draw(4));
        unlink(name);
        if (!make(target, sizeof target) || draw(2))
            strcpy(target, *last ? last : "../run");
        else if (!draw(3)) { /* a long way to the same folder */
            memset(target, '/', 2900);
            memcpy(target, "./", 2);
            strcpy(target + 2900, *last ? last : name);
        }
        if (!symlink(target, name))
            strcpy(last, name);
    }
    if (!*last || !getcwd(path, PATH_MAX))
        return;
    strcat(strcat(path, "/"), last);
    const char *found = called_as(path);
    bool is_allowed = follow(path);
    if (!found != !is_allowed || (found && strcmp(found, path)))
        fail("another path");
    found = called_as(text);
    if (found && *found != '/')
        fail("not absolute");
}

static void fuzz_file(void)
{
    static char text[1 << 17];
    size_t length = draw(30) ? 0 : draw(1 << 16);

    memset(text, '\n', length);
    length += make(text + length, sizeof text - length);
    int file = open("file", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (file < 0 || write(file, text, length) != (ssize_t)length)
        fail("no file");
    close(file);
    bool expected = memmem(text, length, "bridges", 7) || (memmem(text, length, "bridged", 7) && memmem(text, length, "uplink", 6));
    if (may_declare_bridges("file") != expected)
        fail("found other bridges");
    has_bridges();
}

int main(int argc, char **argv)
{
    static void (*const kinds[])(void) = {fuzz_answer, fuzz_words, fuzz_path, fuzz_file};
    unsigned long counts[4] = {0};
    struct timespec now, end;

    if (argc != 4 || chdir(argv[3]))
        return 2;
    state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += atoi(argv[2]);
    do {
        unsigned kind = draw(4);
        kinds[kind]();
        counts[kind]++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
    printf("answers %lu, words %lu, paths %lu, files %lu\n", counts[0], counts[1], counts[2], counts[3]);
    return 0;
}
