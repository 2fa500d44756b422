"""Sites trained by Flower's Ray simulation, for models and numbers of sites that outgrow one process.

    FlowerEngines (this process)  --socket-->  driver (a process of its own: Ray's driver, Flower's ServerApp and its Grid)
                                                 |  Flower's simulation: a ClientApp for each message, in Ray's workers
                                               site_app -> site: `client.training.train`, the code that a node runs

Flower and Ray have a process of their own: whatever hangs there can be ended from here, and what they print stays out of the
terminal. A study's patients are put into Ray's object store once; a message carries a model and numbers, which are packed by
`parcels`, never pickled by us. Draws are keyed by (seed, site, call), so that a message that is sent again gives the same bits.

Import from `engine`. This module imports nothing: the driver starts without torch.
"""
