"""What coordinator and sites say to each other, and when: messages and two state machines without I/O or clock.

A round, as the messages see it (a site's own in the left column)::

    Hello ->            <- Welcome(plan)      who is there, and what was agreed
    Join(layout) ->     <- Joined             the model is the same one
                        <- Model(version)     a global model is ready ...
    Fetch ->            <- Chunk ...          ... and is fetched by the site, a few chunks at a time
                        <- Begin(round)       train, and meanwhile agree on keys:
    Masking(Advertise) -> <- Masking(Cohort)
    Masking(Shares) ->  <- Masking(Bundles)
    Masking(Masked) ->                        the update is masked
    Offer(update) ->    <- Credit             it is sent, as fast as the coordinator can take it
    Chunk ... ->        <- Rejected           if it cannot be summed
    Masking(Signed) ->  <- Masking(Survivors)   who is in the sum
    Masking(Reveal) ->  <- Masking(Signatures)  all have signed the same: the sum, and only it, is opened
                        <- Model(version + 1), Begin(round + 1) ... Finished
    Leave ->            <- Farewell

Without masks the ``Masking`` lines are not there. Where the plan has a vote, ballots go the same way first, and
``Support`` says which coordinates won. A model may come as ``delta`` to the one before. Who is not in the cohort hears
nothing of a round; ``Model`` comes before its next ``Begin``, or before ``Finished``.

``coordinator/`` and ``site/`` are a wing each, with the machine in ``session.py``; this room holds what both share.
What the plan makes of an update is ``Exchange``, the same on both sides; a site's ``Outbox`` goes through it one way,
the coordinator's ``Collection`` or ``MaskedCollection`` of an attempt at a round the other way, and ``ServerStep``
makes the next model of the sum.
"""
