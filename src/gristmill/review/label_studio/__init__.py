"""Label Studio: annotations become its tasks and come back, by file or by server.

labeling     the labels of a project, as XML and parsed back          offsets    code points, UTF-16, line ends
results      annotation <-> result, one entry of a table for a kind   subjects   record <-> task data
check        what is wrong with a task: everything, each with where
projects     a project made of a run, kept in the database            exports    JSON, CSV, CoNLL, COCO, VOC, YOLO
client       one server                                               exchange   push and pull, conflicts
"""
