/* Named points of the protocols, at which a test may have the process killed. */
#ifndef SF_POINT_H
#define SF_POINT_H

/* The process kills itself (SIGKILL) when it next reaches the point of this name; NULL or "" for never. */
int sf_point_arm(const char *name);
void sf_point_reached(const char *name);
extern int sf_point_armed;

/* Stands in slow paths only. */
#define SF_POINT(name)                                                                                                 \
    do {                                                                                                               \
        if (__builtin_expect(sf_point_armed, 0))                                                                       \
            sf_point_reached(name);                                                                                    \
    } while (0)

#endif
