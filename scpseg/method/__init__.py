"""SCPSeg itself: squeezing (CSM), super-resolution (SRD), feature alignment (LFA) and the method that joins them."""
