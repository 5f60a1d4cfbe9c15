/* The guest's end of a vsock test, since busybox speaks none.
 *   vsock_peer listen PORT              takes one connection and sends back what it says
 *   vsock_peer connect CID PORT WORDS   says the words, prints the answer */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static int echo(int client)
{
    ssize_t count;
    while ((count = read(client, buffer, sizeof buffer)) > 0)
        for (ssize_t sent = 0; sent < count;) {
            ssize_t part = write(client, buffer + sent, count - sent);
            if (part < 0)
                return 1;
            sent += part;
        }
    return count < 0;
}

int main(int count, char **words)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (count == 3) {
        address.svm_port = atoi(words[2]);
        if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
            return 1;
        return echo(accept(fd, NULL, NULL));
    }
    address.svm_cid = atoi(words[2]);
    address.svm_port = atoi(words[3]);
    if (connect(fd, (void *)&address, sizeof address)) {
        perror("connect");
        return 1;
    }
    if (write(fd, words[4], strlen(words[4])) < 0 || shutdown(fd, SHUT_WR))
        return 1;
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
        fwrite(buffer, 1, got, stdout);
    puts("");
    return 0;
}
