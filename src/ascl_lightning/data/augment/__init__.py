"""How texts and pictures are changed for training: T+, T- and (T+)-, the three types of information asymmetry.

`text_operations` holds the paper's operations and the sampler that draws T+ and T- for a caption,
`more_text_operations` those beyond the paper, `image_operations` their counterparts on pictures. T- on word
features is in `models.perturb`.
"""
