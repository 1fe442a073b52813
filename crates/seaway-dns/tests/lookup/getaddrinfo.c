/* Looks argv[1] up as most programs do; prints the error's number, then an address a line. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *it;
    char text[INET6_ADDRSTRLEN];
    int error = getaddrinfo(argc > 1 ? argv[1] : "", NULL, &hints, &list);
    printf("%d\n", error);
    for (it = error ? NULL : list; it; it = it->ai_next) {
        const void *address = it->ai_family == AF_INET
            ? (const void *)&((struct sockaddr_in *)it->ai_addr)->sin_addr
            : (const void *)&((struct sockaddr_in6 *)it->ai_addr)->sin6_addr;
        puts(inet_ntop(it->ai_family, address, text, sizeof text));
    }
    return 0;
}
