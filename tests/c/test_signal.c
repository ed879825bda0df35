/* A signal that was answered once: its copies are overlooked, and a later one ends the process. */
#include <signal.h>
#include <sys/wait.h>

#include "core.h"
#include "sf_signal.h"

/* How a child ends that sends itself the signal once, and then exits with 7. */
static int
end_of_child(int64_t after_ns)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (sf_signal_next_ends(SIGTERM, after_ns) != 0)
            _exit(1);
        kill(getpid(), SIGTERM);
        _exit(7);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    return status;
}

TEST(a_copy_of_a_signal_that_was_answered_is_overlooked)
{
    int status = end_of_child(60 * SF_SECOND);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 7);
}

TEST(the_next_one_after_its_time_has_the_default_action)
{
    int status = end_of_child(0);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(WTERMSIG(status), SIGTERM);
}

TEST(a_signal_that_cannot_be_handled_is_an_error)
{
    CHECK_EQ(sf_signal_next_ends(SIGKILL, 0), -EINVAL);
}
