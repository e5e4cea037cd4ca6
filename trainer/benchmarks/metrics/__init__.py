"""What answers are worth.

```
figure.py    a figure with its confidence interval
text.py      short answers and boxes · vqa.py the VQA challenge's accuracy · captions.py CIDEr and others
images.py    FID, CLIP-T, CLIP-I, DINO, boxes by a detector, the nearest of several images
```
"""
