"""Every call to the operating system that Python does not make portable, one subject a file.

Only this package uses ctypes, fcntl, prctl and ``sys.platform``. Linux is the platform; elsewhere each module imports,
and says in its docstring what it does instead.

========================  ==========================================================================================
`prctl`                   die with the parent, adopt orphans, name the process
`pidfd`                   signal, watch and stop exactly the process that was meant
`reaping`                 collect every dead child without stealing a status
`procfs`                  one process read from /proc: state, parent, memory, threads, environment
`psutil_readings`         the same readings where there is no /proc
`processes`               those readings, and trees of processes: list, end, and miss none
`locks`                   the node's lock (flock) and the claims lock (fcntl record lock)
`unix_sockets`            private listening sockets, datagrams, packets that carry fds
`files`                   private files and directories, file system types, the runtime directory
`waiting`                 idle children share one fd without all waking
`descriptors`             how many descriptors are open, the next free number, what each one is
`stacks`                  a process writes its Python stacks into a file, also while it hangs or crashes
`memory`                  the resident size of a process; give free memory back; what CPU and memory the cgroup leaves
`signals`                 no-op handlers, defaults, the wake-up socket
========================  ==========================================================================================
"""
