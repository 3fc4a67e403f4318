/* vnet IFNAME START OFFSET FRAME...: sends frames (hex) whose checksum from START on is left to the host, to be written OFFSET bytes
 * after START. START 0: as they are. For a guest without Python. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), one = 1;
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(3)};

	if (argc < 5 || fd < 0)
		return 2;
	to.sll_ifindex = if_nametoindex(argv[1]);
	if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) || bind(fd, (void *)&to, sizeof to)) {
		perror("vnet");
		return 1;
	}
	for (int n = 4; n < argc; n++) {
		struct virtio_net_hdr head = {.csum_start = atoi(argv[2]), .csum_offset = atoi(argv[3])};
		unsigned char data[4096];
		size_t size = strlen(argv[n]) / 2;

		if (size > sizeof data - sizeof head)
			return 2;
		if (head.csum_start)
			head.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		memcpy(data, &head, sizeof head);
		for (size_t i = 0; i < size; i++)
			sscanf(argv[n] + 2 * i, "%2hhx", data + sizeof head + i);
		if (write(fd, data, sizeof head + size) < 0) {
			perror("vnet");
			return 1;
		}
	}
	return 0;
}
