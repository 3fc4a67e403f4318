/* Sends frames as guests or as the wire do, and times what the host makes of them.
 *
 *   frames guests COUNT          holds the taps t0 … t(COUNT-1), in the host's network namespace
 *   frames wire IFNAME COUNT     is the network behind an interface
 *
 * Commands on stdin, each answered by a line of numbers on stdout:
 *   hello                        0
 *   send N                       N UDP packets, each from (or, on the wire, to) a guest chosen at random: picoseconds each,
 *                                the median of batches, so that it does not matter if others have the processor for a while
 *   drain                        reads all that waits in the taps: UDP packets
 *   answer N [M]                 N times a guest asks who has the gateway: nanoseconds each until the answer is there
 *   ask N [M]                    N times the host looks for an address behind a guest's tap: nanoseconds each until the
 *                                request, which must be sent in the gateway's name, is there. M: among so many guests only
 *
 * Guest n has tap tn, MAC 52:54:00:00:HI:LO and address 10.64.(1 + n / 256).(n % 256); see hosts.py.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SIZE 60 /* the shortest frame: 18 bytes of payload */
#define BATCH 50 /* packets; what is sent is a multiple of it */
#define GATEWAY "\x0a\x40\x00\x01"
#define WORLD "\xc6\x33\x64\x01" /* 198.51.100.1 */
#define NOBODY "\x0a\x40\xff\x01" /* no guest's address */

static const uint8_t tap_mac[6] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t uplink_mac[6] = {0x02, 0, 0, 0, 0, 0xaa};
static const uint8_t wire_mac[6] = {0x02, 0, 0, 0, 0, 0x01};

static int guests, *taps;
static int packet_socket = -1, netlink, udp, wire_index;

static void die(const char *what)
{
	fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* The same guests in the same order in every variant. */
static uint32_t chance(void)
{
	static uint32_t x = 2463534242u;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static void guest_mac(int n, uint8_t *to)
{
	uint8_t mac[6] = {0x52, 0x54, 0, 0, n >> 8, n & 255};
	memcpy(to, mac, 6);
}

static void guest_ip(int n, uint8_t *to)
{
	uint8_t ip[4] = {10, 64, 1 + n / 256, n % 256};
	memcpy(to, ip, 4);
}

static uint16_t checksum(const uint8_t *header)
{
	uint32_t sum = 0;
	for (int i = 0; i < 20; i += 2)
		sum += header[i] << 8 | header[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

static void udp_frame(int n, uint8_t *f)
{
	memset(f, 0, SIZE);
	if (packet_socket < 0) {
		memcpy(f, tap_mac, 6);
		guest_mac(n, f + 6);
	} else {
		memcpy(f, uplink_mac, 6);
		memcpy(f + 6, wire_mac, 6);
	}
	f[12] = 0x08;
	uint8_t *ip = f + 14;
	ip[0] = 0x45;
	ip[3] = SIZE - 14;
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	if (packet_socket < 0) {
		guest_ip(n, ip + 12);
		memcpy(ip + 16, WORLD, 4);
	} else {
		memcpy(ip + 12, WORLD, 4);
		guest_ip(n, ip + 16);
	}
	uint16_t sum = checksum(ip);
	memcpy(ip + 10, &sum, 2);
	uint8_t *head = ip + 20;
	head[0] = 0x30; /* ports 12345 and 9: discard */
	head[1] = 0x39;
	head[3] = 9;
	head[5] = SIZE - 34;
}

static void write_to_taps(uint8_t frames[][SIZE], const int *from)
{
	for (int i = 0; i < BATCH; i++)
		if (write(taps[from[i]], frames[i], SIZE) != SIZE)
			die("write to a tap");
}

static void write_to_wire(uint8_t frames[][SIZE])
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = wire_index, .sll_halen = 6, .sll_protocol = htons(ETH_P_IP)};
	struct iovec parts[BATCH];
	struct mmsghdr messages[BATCH];
	memset(messages, 0, sizeof messages);
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){frames[i], SIZE};
		messages[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &parts[i], .msg_iovlen = 1};
	}
	if (sendmmsg(packet_socket, messages, BATCH, 0) != BATCH)
		die("sendmmsg");
}

static int by_size(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
	return (a > b) - (a < b);
}

static uint64_t send_packets(int count)
{
	static uint8_t frames[BATCH][SIZE];
	int from[BATCH], batches = count / BATCH;
	uint64_t spent[batches], middle;
	for (int batch = 0; batch < batches; batch++) {
		for (int i = 0; i < BATCH; i++) {
			from[i] = chance() % guests;
			udp_frame(from[i], frames[i]);
		}
		uint64_t begin = now();
		if (packet_socket < 0)
			write_to_taps(frames, from);
		else
			write_to_wire(frames);
		spent[batch] = now() - begin;
	}
	qsort(spent, batches, sizeof *spent, by_size);
	middle = spent[batches / 2];
	return middle * 1000 / BATCH;
}

static int drain(void)
{
	uint8_t frame[2048];
	int found = 0;
	for (int n = 0; n < guests; n++) {
		ssize_t size;
		while ((size = read(taps[n], frame, sizeof frame)) > 0)
			found += size == SIZE && frame[12] == 0x08 && frame[13] == 0 && frame[23] == IPPROTO_UDP;
	}
	return found;
}

/* Reads from a tap until the ARP packet that is wanted is there. */
static void await_arp(int fd, uint8_t operation, const char *sender_ip, const char *target_ip)
{
	uint8_t f[2048];
	for (;;) {
		ssize_t size = read(fd, f, sizeof f);
		if (size < 0) {
			struct pollfd wait = {.fd = fd, .events = POLLIN};
			if (errno != EAGAIN)
				die("read from a tap");
			errno = ETIMEDOUT;
			if (poll(&wait, 1, 2000) <= 0)
				die(operation == 1 ? "no request for an address behind a tap" : "no answer to who-has the gateway");
			continue;
		}
		if (size < 42 || f[12] != 0x08 || f[13] != 0x06 || f[21] != operation)
			continue;
		if (memcmp(f + 28, sender_ip, 4) == 0 && (!target_ip || memcmp(f + 38, target_ip, 4) == 0))
			return;
		errno = EPROTO;
		if (!target_ip || memcmp(f + 38, target_ip, 4) == 0)
			die("ARP in another's name than the gateway's");
	}
}

static uint64_t answer(int among)
{
	int n = chance() % among * (guests / among);
	uint8_t f[SIZE] = {0};
	memset(f, 0xff, 6);
	guest_mac(n, f + 6);
	memcpy(f + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
	guest_mac(n, f + 22);
	guest_ip(n, f + 28);
	memcpy(f + 38, GATEWAY, 4);
	uint64_t begin = now();
	if (write(taps[n], f, SIZE) != SIZE)
		die("write to a tap");
	await_arp(taps[n], 2, GATEWAY, NULL);
	return now() - begin;
}

static void forget(int index)
{
	struct {
		struct nlmsghdr head;
		struct ndmsg neighbour;
		struct rtattr attribute;
		uint8_t address[4];
	} order = {
		.head = {.nlmsg_len = sizeof order, .nlmsg_type = RTM_DELNEIGH, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		.neighbour = {.ndm_family = AF_INET, .ndm_ifindex = index},
		.attribute = {.rta_len = 8, .rta_type = NDA_DST},
	};
	char said[4096];
	memcpy(order.address, NOBODY, 4);
	if (send(netlink, &order, sizeof order, 0) < 0 || recv(netlink, said, sizeof said, 0) < 0)
		die("netlink");
}

static uint64_t ask(int among)
{
	int n = chance() % among * (guests / among);
	char name[IFNAMSIZ];
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	memcpy(&to.sin_addr, NOBODY, 4);
	snprintf(name, sizeof name, "t%d", n);
	if (setsockopt(udp, SOL_SOCKET, SO_BINDTODEVICE, name, strlen(name) + 1))
		die(name);
	uint64_t begin = now();
	if (sendto(udp, "", 0, 0, (void *)&to, sizeof to) < 0)
		die("sendto");
	await_arp(taps[n], 1, GATEWAY, NOBODY);
	uint64_t spent = now() - begin;
	forget(if_nametoindex(name));
	return spent;
}

static void hold_taps(void)
{
	struct rlimit files = {guests + 64, guests + 64};
	if (setrlimit(RLIMIT_NOFILE, &files))
		die("RLIMIT_NOFILE");
	taps = calloc(guests, sizeof *taps);
	for (int n = 0; n < guests; n++) {
		struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
		snprintf(request.ifr_name, IFNAMSIZ, "t%d", n);
		taps[n] = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
		if (taps[n] < 0 || ioctl(taps[n], TUNSETIFF, &request))
			die(request.ifr_name);
	}
	netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	udp = socket(AF_INET, SOCK_DGRAM, 0);
}

int main(int argc, char **argv)
{
	char line[80], what[20];
	int count, among;
	if (argc == 3 && !strcmp(argv[1], "guests")) {
		guests = atoi(argv[2]);
		hold_taps();
	} else if (argc == 4 && !strcmp(argv[1], "wire")) {
		int bypass = 1;
		guests = atoi(argv[3]);
		wire_index = if_nametoindex(argv[2]);
		/* Protocol 0: it receives nothing. */
		packet_socket = socket(AF_PACKET, SOCK_RAW, 0);
		if (packet_socket < 0 || setsockopt(packet_socket, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof bypass))
			die("packet socket");
	} else {
		fprintf(stderr, "usage: frames guests COUNT | frames wire IFNAME COUNT\n");
		return 2;
	}
	while (fgets(line, sizeof line, stdin)) {
		count = among = 0;
		if (sscanf(line, "%19s %d %d", what, &count, &among) < 1)
			continue;
		if (!strcmp(what, "send"))
			printf("%llu", (unsigned long long)send_packets(count));
		else if (!strcmp(what, "drain"))
			printf("%d", drain());
		else if (!strcmp(what, "answer"))
			for (int i = 0; i < count; i++)
				printf("%llu ", (unsigned long long)answer(among ? among : guests));
		else if (!strcmp(what, "ask"))
			for (int i = 0; i < count; i++)
				printf("%llu ", (unsigned long long)ask(among ? among : guests));
		else
			printf("0");
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
