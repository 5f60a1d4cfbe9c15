/* How long a queue's thread looks at its ring before it sleeps (docs/decisions/0089).
 *
 * While it looks, a request costs neither a doorbell nor a wake-up.  Looking for as long as some wake-ups take
 * pays where requests follow each other that fast, and costs a CPU where they do not: so the window closes when
 * looking was in vain, and opens when the next request came so soon that looking on would have met it. */

#define SPIN_WAKEUPS 10u              /* a window is worth so many of them */
#define SPIN_MOST_NS 2000000u
#define SPIN_LEAST_NS 4000u           /* below it, looking is not worth the calls around it */
#define SPIN_TRIES 3

/* What a wake-up costs here: by how much the shortest sleep overruns (prctl(2), PR_SET_TIMERSLACK).  A few
 * microseconds on hardware; ten and more times that where this host is a virtual machine itself. */
static uint64_t vmrun_wakeup_ns(void)
{
    static uint64_t known;
    uint64_t least = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (least)
        return least;
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    least = UINT64_MAX;
    for (int i = 0; i < SPIN_TRIES; i++) {
        struct timespec shortest = {0, 1};
        uint64_t began = vmrun_now();
        nanosleep(&shortest, NULL);
        uint64_t took = vmrun_now() - began;
        if (took < least)
            least = took;
    }
    if (slack > 0)
        prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
    __atomic_store_n(&known, least, __ATOMIC_RELAXED);
    return least;
}

/* ``most_ns``: the widest window; 0 where looking would keep the one CPU from who is to ask. */
static void vmrun_spin_open(struct vmrun_spin *s, uint64_t most_ns, uint64_t now)
{
    s->most_ns = s->window_ns = most_ns;
    s->since = now;
}

static uint64_t vmrun_spin_most(void)
{
    cpu_set_t may;
    if (sched_getaffinity(0, sizeof may, &may) == 0 && CPU_COUNT(&may) < 2)
        return 0;
    uint64_t worth = SPIN_WAKEUPS * vmrun_wakeup_ns();
    return worth < SPIN_MOST_NS ? worth : SPIN_MOST_NS;
}

/* Whether to look once more; ``since`` is when there was something last. */
static int vmrun_spin_more(const struct vmrun_spin *s, uint64_t now)
{
    return now - s->since < s->window_ns;
}

/* A request has ended the sleep that came when looking was over. */
static void vmrun_spin_woken(struct vmrun_spin *s, uint64_t now)
{
    if (now - s->since < s->most_ns)
        s->window_ns = s->most_ns;
    else if ((s->window_ns /= 2) < SPIN_LEAST_NS)
        s->window_ns = 0;
    s->since = now;
}
