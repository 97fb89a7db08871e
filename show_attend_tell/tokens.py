"""The four special tokens and their ids, which every vocabulary shares."""

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIALS))
EOS_WORD = SPECIALS[EOS]
