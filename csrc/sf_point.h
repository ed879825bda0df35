/* Named points of the protocols, at which a test may have the process killed or suspended. */
#ifndef SF_POINT_H
#define SF_POINT_H

/* Arms a point: the process sends itself this signal when it next reaches the point of this name. "" disarms. 0 or
 * -errno. */
int sf_point_arm(const char *name, int signal_number);
void sf_point_reached(const char *name);
extern int sf_point_armed;

/* For slow paths only. */
#define SF_POINT(name)                                                                                                 \
    do {                                                                                                               \
        if (__builtin_expect(sf_point_armed, 0))                                                                       \
            sf_point_reached(name);                                                                                    \
    } while (0)

#endif
