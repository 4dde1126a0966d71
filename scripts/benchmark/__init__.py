"""stowfs and what people use instead, measured the same way: contestants, workloads, and the store between them.

settings, contents     what a run is asked to do, and on which files
contestants, peers     who takes part, and how each is used
workloads, runner      what is done with them, and whether it was done right
lab, report, plot      measuring, and how the result is shown
store, proxy           the S3 server and its buckets; counting what goes there
processes, mounts      children and FUSE daemons that end, whatever happens
packages, programs/    installing peers; what is run as a child
"""
