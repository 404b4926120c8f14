"""Training on several hosts: who they are, how they meet, and what happens when one of them is lost.

JAX's own service joins the processes to one program. It ends a process by an abort, with pages of addresses,
as soon as another one is missing or lost, and Python cannot hear of it before. So the processes meet by a
connection of their own first, and keep it: process 0 hears of the loss of any other and tells the rest.
"""
