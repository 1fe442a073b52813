/*
 * getaddrinfo of the C library that this is linked with, for seaway-probe, which runs it as its resolver of musl.
 *
 *   lookup NAME SOCKTYPE
 *
 * Writes a line `address ADDRESS SCOPE` for each address in getaddrinfo's order, or `error CODE TEXT`; then `end`. The hints
 * are those of seaway_net::resolve::getaddrinfo: AF_UNSPEC, no flags.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints, *first, *entry;
	int code;

	if (argc != 3) {
		fprintf(stderr, "usage: lookup NAME SOCKTYPE\n");
		return 2;
	}
	memset(&hints, 0, sizeof hints);
	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = atoi(argv[2]);
	code = getaddrinfo(argv[1], NULL, &hints, &first);
	if (code != 0) {
		printf("error %d %s\nend\n", code, code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
		return 0;
	}
	for (entry = first; entry; entry = entry->ai_next) {
		char text[INET6_ADDRSTRLEN];
		const void *address;
		unsigned scope = 0;

		if (entry->ai_family == AF_INET) {
			address = &((const struct sockaddr_in *)entry->ai_addr)->sin_addr;
		} else if (entry->ai_family == AF_INET6) {
			const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)entry->ai_addr;
			address = &v6->sin6_addr;
			scope = v6->sin6_scope_id;
		} else {
			continue;
		}
		if (inet_ntop(entry->ai_family, address, text, sizeof text))
			printf("address %s %u\n", text, scope);
	}
	printf("end\n");
	return 0;
}
