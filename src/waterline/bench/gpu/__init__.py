"""`waterline bench --device cuda --suite gpu`: everything that is measured on a GPU, in one command of a few minutes.

`suite` is the command's side: it imports neither PyTorch nor Triton, starts `worker` as a process, and starts it again
where a kernel ended it. `parts` has what is measured; each part is a module that gives cases (`cases.Case`), and
`measuring` checks, times and records any case.
"""
