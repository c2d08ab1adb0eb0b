"""SCPSeg: context squeezing (CSM), super-resolution (SRD), local feature alignment (LFA), and the method."""
