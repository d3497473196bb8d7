"""The expert index of a packed folder: each expert is one span."""

from locum.model.checkpoint import Checkpoint
from locum.model.packed import Packed
from locum.store.index import ExpertIndex, FileId, LayerIndex, Span


def packed_index(checkpoint: Checkpoint, packed: Packed) -> ExpertIndex:
    """The index of the packed folder that `checkpoint` is."""
    names = [name for name, _ in packed.files]
    files = {file.name: file for file in checkpoint.files}
    return ExpertIndex(
        files=tuple(
            FileId(str(checkpoint.folder / name), files[name].size, files[name].mtime_ns) for name in names
        ),
        layers=tuple(
            LayerIndex(
                module=layer.module,
                layer=layer.layer,
                image_bytes=layer.image_bytes,
                tensors=layer.tensors,
                experts=tuple((Span(e.file, e.offset, e.length, 0),) for e in layer.experts),
                checksums=tuple(e.xxh3 for e in layer.experts),
            )
            for layer in packed.layers
        ),
        identity=checkpoint.identity,
    )
