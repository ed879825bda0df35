#include "sf_point.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

int sf_point_armed;
static char point_name[64];
static int point_signal;

int
sf_point_arm(const char *name, int signal_number)
{
    size_t length = strlen(name);
    if (length >= sizeof point_name)
        return -ENAMETOOLONG;
    sf_point_armed = 0;
    if (length == 0)
        return 0;
    memcpy(point_name, name, length + 1);
    point_signal = signal_number;
    sf_point_armed = 1;
    return 0;
}

void
sf_point_reached(const char *name)
{
    if (strcmp(name, point_name) == 0)
        kill(getpid(), point_signal);
}
